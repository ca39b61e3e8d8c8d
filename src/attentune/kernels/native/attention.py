"""`forward`: attention by the compiled core, from typed values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import torch

from attentune.errors import KernelError
from attentune.kernels.native.operators import blocked_forward
from attentune.kernels.native.problem import FORMS, KINDS
from attentune.shapes import Float, Int, Tensor
from attentune.spec.score_steps import AddByDistance, LogAddExpByDistance, SoftCap, Step
from attentune.spec.score_steps import AddByQuery, MultiplyByQuery

SIZE = 64  # queries and keys of a tile
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class TileTable(Protocol):
    """What is read of `attentune.kernels.tile_table.TileTable`."""

    @property
    def start(self) -> Int[Tensor, "rows query_tiles_and_1"]: ...  # noqa: D102
    @property
    def key_tile(self) -> Int[Tensor, "tiles"]: ...
    @property
    def pattern(self) -> Int[Tensor, "tiles"]: ...
    @property
    def patterns(self) -> Int[Tensor, "distinct 64"]: ...


@dataclass(frozen=True)
class NativeResult:
    """What the core computed. `lse` holds the extra logit, `key_lse` is that of the visible keys alone."""

    output: Float[Tensor, "B H Q V"]
    lse: Float[Tensor, "B H Q"]
    key_lse: Float[Tensor, "B H Q"]


def forward(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B G K D"],
    v: Float[Tensor, "B G K V"],
    *,
    scale: float,
    table: TileTable,
    query_position: Int[Tensor, "rows Q"],
    key_position: Int[Tensor, "rows K"],
    steps: Sequence[Step] = (),
    extra_logit: Float[Tensor, "H"] | None = None,
    kind: str = "softmax",
    dropout: float = 0.0,
    seed: int | Int[Tensor, ""] = 0,
) -> NativeResult:
    """Attention."""
    forms, caps, values = _lowered(steps)
    if isinstance(seed, int):
        seed = torch.tensor(seed)
    parts = [table.start, table.key_tile, table.pattern, table.patterns]
    output, key_lse = blocked_forward(
        q, k, v, values, extra_logit, parts, query_position, key_position, seed,
        scale, forms, caps, KINDS.index(kind), dropout,
    )
    lse = key_lse if extra_logit is None else torch.logaddexp(key_lse, extra_logit.to(key_lse.dtype)[:, None])
    return NativeResult(output, lse, key_lse)


def _lowered(steps: Sequence[Step]) -> tuple[list[int], list[float], list[Tensor]]:
    forms: list[int] = []
    caps: list[float] = []
    values: list[Tensor] = []
    for step in steps:
        constant, first = 0, 0
        match step:
            case AddByDistance():
                first = step.first
                values.append(step.table)
            case LogAddExpByDistance():
                constant, first = int(step.constant), step.first
                values.append(step.table)
            case SoftCap():
                caps.append(step.cap)
            case MultiplyByQuery():
                values.append(step.factor)
            case AddByQuery():
                values.append(step.term)
        forms += [FORMS.index(type(step).__name__), constant, first]
    return forms, caps, values
