"""Attention by tiles of queries, in Python: exact for every spec, in memory that is linear in length.

A tile is some queries with all keys that any of them sees, so that it holds whole rows of scores and is computed by the
reference's own mathematics. Nothing of a tile is kept: the backward pass computes it again, with the same dropout, and
differentiates it by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from attentune.kernels.kernel import Call, Cost, Request, Result
from attentune.kernels.layout import Layout, LayoutKind
from attentune.kernels.reference import attend
from attentune.kernels.tile_table import SIZE, TileTable, tile_table
from attentune.kernels.visible_share import visible_share
from attentune.shapes import Int, Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Dims
from attentune.spec.positions import Positions

SCORES = 1 << 18  # of a tile, so that a megabyte of them stays inside the second-level cache
FEWEST, MOST = 16, 4 * SIZE  # queries of a tile
GATHER = 0.6  # keys are gathered where fewer than this share of the span from the first to the last is needed
INSIDE = (
    "similarity",
    "position",
    "scores",
    "normalizer",
    "head_mix",
    "selector",
)  # slots whose parameters matter here
EXTRAS = ("lse", "column_mass", "entropy", "top_k")  # wanted outputs that need no matrix of all weights

Columns: TypeAlias = "slice | Tensor"


@dataclass(frozen=True)
class QueryTile:
    """Some rows of the batch, some of their queries, and every key that one of them sees."""

    rows: slice
    queries: slice
    keys: Columns
    number: int

    def of_query(self, tensor: Tensor) -> Tensor:
        """The part of a tensor [B H Q ...]."""
        return tensor[self.rows, :, self.queries]

    def of_key(self, tensor: Tensor) -> Tensor:
        """The part of a tensor [B G K ...]."""
        rows = tensor[self.rows]
        return rows[:, :, self.keys] if isinstance(self.keys, slice) else rows.index_select(2, self.keys)

    def place(self, column: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Where keys of the tile stand in the whole row."""
        return column + self.keys.start if isinstance(self.keys, slice) else self.keys[column]

    def add_of_key(self, tensor: Tensor, part: Tensor) -> None:
        """Add to that part."""
        if isinstance(self.keys, slice):
            tensor[self.rows, :, self.keys] += part
        else:
            tensor[self.rows].index_add_(2, self.keys, part)


def run(call: Call) -> Result:
    """The output, and what else of `EXTRAS` is wanted; everything is differentiable."""
    if 0 in (call.q.shape[0], call.q.shape[2], call.k.shape[2]):
        return attend(call, lambda p: p)
    inside = {slot: call.params[slot] for slot in INSIDE if slot in call.params}
    names = [(slot, place, name) for slot, held in inside.items() for place, one in enumerate(held) for name in one]
    tensors = (call.q, call.k, call.v, *(inside[slot][place][name] for slot, place, name in names))
    frame = _Frame(
        call.spec,
        call.dims,
        call.layout,
        call.dropout,
        call.wanted,
        min(call.top, call.k.shape[2]),
        int(torch.randint(1 << 62, ())) if call.dropout else 0,
        {slot: len(held) for slot, held in inside.items()},
        tuple(names),
        tuple(query_tiles(call, tile_table(call.layout, call.spec.mask))),
        call.known,
    )
    outputs: tuple[Tensor, ...] = _Tiles.apply(frame, *tensors)  # type: ignore[no-untyped-call]
    given = dict(zip(frame.outputs, outputs, strict=True))
    output = given.pop("output")
    extra: dict[str, Tensor | tuple[Tensor, Tensor]] = dict(given)
    if "top_k" in call.wanted:
        extra["top_k"] = (given["top_k"], given["keys of top_k"])
        del extra["keys of top_k"]
    return Result(output, extra)


def cost(request: Request) -> Cost:
    """What these tiles cost: the visible pairs, all of it computed once more in the backward pass."""
    d, pairs = request.dims, request.pairs * visible_share(request)
    operations = 2 * pairs * (d.head_width + d.value_width) * (4 if request.needs_grad else 1)
    size = torch.finfo(request.dtype).bits // 8
    moved = size * request.operand_elements * (3 if request.needs_grad else 1)
    largest = -(-request.batch * request.query_length // FEWEST)
    pieces = min(max(-(-int(pairs) // SCORES), request.query_length // MOST, 1), max(largest, 1))
    return Cost(operations, moved, "query_tiles", pieces)


def query_tiles(call: Call, table: TileTable) -> Iterator[QueryTile]:
    """The tiles, cut so that a tile's scores stay near `SCORES`; queries that see nothing are in none of them."""
    batch, heads, queries = call.q.shape[:3]
    keys, count = call.k.shape[2], 0
    start, key_tile = table.start.numpy(), table.key_tile.numpy()
    size = SIZE * min(max(SCORES // (heads * SIZE * keys), 1), MOST // SIZE)
    together = batch if table.rows == 1 else max(1, min(batch, SCORES // (heads * SIZE * keys)))
    for row in range(0, batch, together):
        of_table = slice(0, 1) if table.rows == 1 else slice(row, row + together)
        for begin in range(0, queries, size):
            first, last = begin // SIZE, min(-(-(begin + size) // SIZE), start.shape[1] - 1)
            held = [key_tile[a:b] for a, b in zip(start[of_table, first], start[of_table, last], strict=True)]
            columns, width = _columns(call, held, keys, min(begin + size, queries))
            if columns is None:
                continue
            rows = min(max(SCORES // (heads * size * width), 1), together)
            fewer = min(max(SCORES // (heads * rows * width) // FEWEST * FEWEST, FEWEST), size)
            for top in range(row, min(row + together, batch), rows):
                for at in range(begin, min(begin + size, queries), fewer):
                    end = min(at + fewer, begin + size, queries)
                    yield QueryTile(slice(top, min(top + rows, row + together, batch)), slice(at, end), columns, count)
                    count += 1


def _columns(call: Call, held: list[Any], keys: int, end: int) -> tuple[Columns | None, int]:
    """The keys of these key tiles, as one run or gathered, and how many; None for none.

    A selector may look at every key that is not later than the query, hidden or not.
    """
    tiles = torch.from_numpy(held[0]) if len(held) == 1 else torch.cat([torch.from_numpy(one) for one in held])
    tiles = torch.unique(tiles)
    if not len(tiles):
        return None, 0
    if call.spec.selector is not None:
        stop = end if call.layout.kind is LayoutKind.PLAIN else keys
        return slice(0, stop), stop
    first, stop = int(tiles[0]) * SIZE, min(int(tiles[-1] + 1) * SIZE, keys)
    if len(tiles) * SIZE >= GATHER * (stop - first):
        return slice(first, stop), stop - first
    every = (tiles.long()[:, None] * SIZE + torch.arange(SIZE)).flatten()
    every = every[every < keys].to(call.k.device)
    return every, len(every)


@dataclass(frozen=True)
class _Frame:
    """A call without its tensors, and the tiles it is computed by."""

    spec: AttentionSpec
    dims: Dims
    layout: Layout
    dropout: float
    wanted: frozenset[str]
    top: int
    seed: int
    held: Mapping[str, int]  # values of each slot
    names: tuple[tuple[str, int, str], ...]  # slot, place and name of each parameter
    tiles: tuple[QueryTile, ...]
    known: Result | None = None

    @property
    def outputs(self) -> list[str]:
        """The names of what is given, in order."""
        wanted = [name for name in EXTRAS if name in self.wanted]
        return ["output", *wanted, *(["keys of top_k"] if "top_k" in wanted else [])]

    def unseen(self, q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """The outputs where nothing is seen."""
        of_query, keys = q.shape[:3], k.shape[2]
        made: dict[str, Callable[[], Tensor]] = {
            "output": lambda: torch.zeros(*of_query, v.shape[-1], dtype=dtype, device=q.device),
            "lse": lambda: q.new_full(of_query, float("-inf")),
            "column_mass": lambda: q.new_zeros(*q.shape[:2], keys),
            "entropy": lambda: q.new_zeros(of_query),
            "top_k": lambda: q.new_zeros(*of_query, self.top),
            "keys of top_k": lambda: torch.zeros(*of_query, self.top, dtype=torch.int64, device=q.device),
        }
        return {name: made[name]() for name in self.outputs}

    def computed(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The outputs, tile by tile."""
        q, k, v, *params = _exact(tensors)
        whole = self.unseen(q, k, v, tensors[0].dtype)
        for tile in self.tiles:
            found = self.compute(tile, tile.of_query(q), tile.of_key(k), tile.of_key(v), params)
            for name, tensor in whole.items():
                if name == "column_mass":
                    tile.add_of_key(tensor, found[name])
                else:
                    tensor[tile.rows, :, tile.queries] = found[name].to(tensor.dtype)
        return whole

    def given(self, known: Result) -> dict[str, Tensor]:
        """The outputs as an earlier run gave them."""
        found: dict[str, Tensor] = {"output": known.output}
        for name, one in known.extra.items():
            if isinstance(one, Tensor):
                found[name] = one
            else:
                found[name], found["keys of " + name] = one
        return {name: found[name].detach() for name in self.outputs}

    def compute(self, tile: QueryTile, q: Tensor, k: Tensor, v: Tensor, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs of one tile, by the reference's mathematics."""
        rows = self.layout
        layout = Layout(rows.kind, _at(rows.query, tile.rows, tile.queries), _at(rows.key, tile.rows, tile.keys))
        own: dict[str, list[dict[str, Tensor]]] = {slot: [{} for _ in range(n)] for slot, n in self.held.items()}
        for (slot, place, name), tensor in zip(self.names, params, strict=True):
            own[slot][place][name] = tensor
        drop = self._drop(tile, q.device) if self.dropout else lambda p: p
        found = attend(Call(self.spec, self.dims, own, q, k, v, layout, wanted=self.wanted, top=self.top), drop)
        given = {"output": found.output}
        for name, one in found.extra.items():
            if isinstance(one, Tensor):
                given[name] = one
            else:
                missing = (0, self.top - one[0].shape[-1])  # the tile may hold fewer keys than are wanted
                given[name], given["keys of " + name] = pad(one[0], missing), pad(tile.place(one[1]), missing)
        return given

    def _drop(self, tile: QueryTile, device: torch.device) -> Callable[[Tensor], Tensor]:
        def drop(p: Tensor) -> Tensor:
            generator = torch.Generator(device).manual_seed((self.seed + tile.number) % (1 << 62))
            keep = torch.rand(p.shape, generator=generator, device=device) >= self.dropout
            return p.masked_fill(~keep, 0.0) / (1 - self.dropout)

        return drop


class _Tiles(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, frame: _Frame, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.frame = frame
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        whole = frame.computed(tensors) if frame.known is None else frame.given(frame.known)
        ctx.mark_non_differentiable(*(tensor for tensor in whole.values() if not tensor.is_floating_point()))
        return tuple(whole.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        frame: _Frame = ctx.frame
        tensors, wants = ctx.saved_tensors, ctx.needs_input_grad[1:]
        sent = {name: one for name, one in zip(frame.outputs, gradients, strict=True) if one is not None}
        inputs = _exact(tensors)
        totals = [torch.zeros_like(one) for one, wanted in zip(inputs, wants, strict=True) if wanted]
        for tile in frame.tiles:
            q, k, v, *params = inputs
            parts = (tile.of_query(q), tile.of_key(k), tile.of_key(v), *params)
            leaves = [part.detach().requires_grad_(wanted) for part, wanted in zip(parts, wants, strict=True)]
            with torch.enable_grad():
                found = frame.compute(tile, leaves[0], leaves[1], leaves[2], leaves[3:])
            ends = [
                (found[name], tile.of_key(one) if name == "column_mass" else tile.of_query(one))
                for name, one in sent.items()
                if found[name].requires_grad
            ]
            if not ends:
                continue
            reached = [place for place, wanted in enumerate(wants) if wanted]
            given = torch.autograd.grad(
                [part for part, _ in ends],
                [leaves[place] for place in reached],
                [one.to(part.dtype) for part, one in ends],
                allow_unused=True,
            )
            for place, total, part in zip(reached, totals, given, strict=True):
                if part is None:
                    continue
                if place == 0:
                    total[tile.rows, :, tile.queries] += part
                elif place < 3:
                    tile.add_of_key(total, part)
                else:
                    total += part
        summed = iter(totals)
        return None, *(
            next(summed).to(one.dtype) if wanted else None for one, wanted in zip(tensors, wants, strict=True)
        )


def _exact(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """In the dtype that is computed in, so that gradients of many tiles add up in it."""
    exact = torch.float64 if tensors[0].dtype is torch.float64 else torch.float32
    return tuple(tensor.detach().to(exact) for tensor in tensors)


def _at(side: Positions, rows: slice, places: Columns) -> Positions:
    return side.map(lambda tensor: (tensor[rows] if tensor.shape[0] > 1 else tensor)[:, places])
