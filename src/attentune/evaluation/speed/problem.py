"""The tensors of one cell: what every contestant computes with, drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import exp, log
from random import Random
from zlib import crc32

import torch

from attentune.evaluation.speed.grid import Case
from attentune.kernels import Layout, LayoutKind
from attentune.kernels.kernel import SlotParams
from attentune.shapes import Float, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tiles import TileState, row_tiles
from attentune.verification.inputs import slot_parameters
from attentune.verification.kernel_checks import INSIDE

DOCUMENT = (16, 2048)  # tokens of a document of a packed row, every order of magnitude equally likely
TILE = 64
TILES_AT_A_TIME = 1024


@dataclass
class Problem:
    """Operands q [B H Q D], k and v [B H K D], the parameters of the spec, and the layout of one row for all rows."""

    case: Case
    q: Float[Tensor, "B H Q D"]
    k: Float[Tensor, "B H K D"]
    v: Float[Tensor, "B H K D"]
    params: SlotParams
    layout: Layout
    _shared: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def shared(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What several contestants need alike, such as a mask of all pairs: made once for those timed together."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Whatever has a gradient, by name."""
        named = {"q": self.q, "k": self.k, "v": self.v}
        for slot, held in self.params.items():
            for place, one in enumerate(held):
                named |= {f"{slot}.{place}.{name}": tensor for name, tensor in one.items()}
        return named

    @property
    def scale(self) -> float:
        """c of s = c q.k."""
        found = self.case.spec.similarity.inner_product_scale(self.case.dims)
        assert found is not None
        return found

    def fresh_layout(self) -> Layout:
        """The same layout with nothing remembered."""
        return Layout(self.layout.kind, self.layout.query, self.layout.key)


def pose(case: Case) -> Problem:
    """The operands of `case` on its device, standard normal; they ask for gradients where the pass has a backward."""
    setting, device = case.setting, torch.device(case.setting.device)
    generator = torch.Generator().manual_seed(crc32(str(case.cell).encode()))

    def drawn(tokens: int) -> Tensor:
        made = torch.randn(setting.batch, setting.heads, tokens, setting.head_width, generator=generator)
        return made.to(device, case.dtype).requires_grad_(case.backward)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        held = slot_parameters(case.spec, case.dims)
    params = {
        slot: [
            {name: tensor.to(device, case.dtype).requires_grad_(case.backward) for name, tensor in one.items()}
            for one in several
        ]
        for slot, several in held.items()
        if slot in INSIDE
    }
    return Problem(case, drawn(case.queries), drawn(case.cell.length), drawn(case.cell.length), params, layout_of(case))


def layout_of(case: Case) -> Layout:
    """The positions of the cell's rows; when decoding, those of the last token before all keys."""
    device, length = case.setting.device, case.cell.length
    if case.cell.mask == "packed":
        whole = Layout.packed(documents(length).to(device)[None])
    else:
        whole = Layout.plain(length, device=device)
    if not case.decodes:
        return whole
    return Layout(LayoutKind.CACHED, whole.query.map(lambda tensor: tensor[:, -1:]), whole.key)


def document_lengths(length: int) -> list[int]:
    """How long the documents of a packed row are: the same for every run."""
    draws, left, lengths = Random(0), length, []
    least, most = DOCUMENT
    while left:
        one = min(round(exp(draws.uniform(log(least), log(most)))), left)
        lengths.append(one)
        left -= one
    return lengths


def documents(length: int) -> Int[Tensor, "T"]:
    """The number of the document that each token belongs to."""
    lengths = torch.tensor(document_lengths(length))
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths)


def visible_pairs(case: Case) -> int:
    """Pairs of a query and a key it sees, in one row, counted without ever looking at all pairs."""
    layout = layout_of(replace(case, setting=case.setting.replace(device="cpu")))
    query, key = (side.row(0) for side in (layout.query, layout.key))
    states = row_tiles(case.spec.mask, query, key, tile=(TILE, TILE))
    count = 0
    for tiles in (states != TileState.HIDDEN).nonzero().split(TILES_AT_A_TIME):
        count += _seen_in(case.spec.mask, query, key, tiles)
    return count


def _seen_in(mask: Mask, query: Positions, key: Positions, tiles: Int[Tensor, "N 2"]) -> int:
    inside = torch.arange(TILE)
    of_query, of_key = (tiles[:, side, None] * TILE + inside for side in (0, 1))
    exists = (of_query < len(query.index))[:, :, None] & (of_key < len(key.index))[:, None, :]
    asking = query.map(lambda tensor: tensor[of_query.clamp(max=len(query.index) - 1)][:, :, None])
    asked = key.map(lambda tensor: tensor[of_key.clamp(max=len(key.index) - 1)][:, None, :])
    seen = mask.visible(asking, asked) & exists
    if asking.document is not None and asked.document is not None:
        seen = seen & (asking.document == asked.document)
    return int(seen.sum())
