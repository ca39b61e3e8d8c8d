"""What a model carries between calls: caches, memories, recurrent states. Always explicit, never hidden in a module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import final

import torch

from attentune.errors import SpecError
from attentune.kernels.layout import Layout
from attentune.shapes import Float, Int, Tensor
from attentune.spec.positions import Positions


@final
class KeyValueCache:
    """The entries of every token so far, in buffers that grow by doubling. Unfilled slots are never read."""

    def __init__(self) -> None:
        self.length = 0
        self.buffers: dict[str, Tensor] = {}

    def append(self, entries: Mapping[str, Float[Tensor, "B G N C"]]) -> dict[str, Tensor]:
        """Add the entries of the newest tokens; all entries so far, old to new. One token is a step, many a prefill."""
        added = next(iter(entries.values())).shape[2]
        end = self.length + added
        if torch.is_grad_enabled() and any(entry.requires_grad for entry in entries.values()):
            self.buffers = {
                name: torch.cat([self.buffers[name][:, :, : self.length], entry], 2) if self.length else entry
                for name, entry in entries.items()
            }
        else:
            for name, entry in entries.items():
                self._room(name, entry, end)
                self.buffers[name][:, :, self.length : end] = entry
        self.length = end
        return {name: buffer[:, :, :end] for name, buffer in self.buffers.items()}

    def _room(self, name: str, entry: Tensor, end: int) -> None:
        held = self.buffers.get(name)
        if held is not None and held.shape[2] >= end:
            return
        capacity = max(end, 2 * (0 if held is None else held.shape[2]), 16)
        grown = entry.new_empty(*entry.shape[:2], capacity, entry.shape[3])
        if held is not None:
            grown[:, :, : self.length] = held[:, :, : self.length]
        self.buffers[name] = grown

    def reorder(self, rows: Int[Tensor, "N"]) -> None:
        self.buffers = {name: buffer.index_select(0, rows) for name, buffer in self.buffers.items()}

    def keep(self, slots: Int[Tensor, "B N"]) -> None:
        """Of each row the entries of `slots` alone, in that order; no token's entry is split, so whole rows move."""
        held = slots.shape[1]
        roomy = torch.nn.functional.pad(
            slots, (0, max(held // 2, 16))
        )  # room for what comes next, filled with anything
        for name, buffer in self.buffers.items():
            batch, groups, capacity, width = buffer.shape
            first = torch.arange(0, batch * groups * capacity, capacity, device=buffer.device).view(batch, groups, 1)
            places = (first + roomy[:, None]).flatten()
            kept = buffer.reshape(-1, width).index_select(0, places)
            self.buffers[name] = kept.view(batch, groups, roomy.shape[1], width)
        self.length = held

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)

    @property
    def bytes(self) -> int:
        """Memory of the buffers."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers.values())


@dataclass
class LayerState:
    """What one layer carries: a cache or a memory for attention, a state for each branch, keys of the context.

    `positions` are those of the cached tokens in a layer that some tokens never reach, because they halt before it.
    """

    cache: KeyValueCache | None = None
    memory: Float[Tensor, "B M E"] | None = None
    branches: list[dict[str, Tensor]] = field(default_factory=list)
    cross: dict[str, Tensor] | None = None
    positions: Positions | None = None

    def truncate(self, length: int) -> None:
        """Forget the cached tokens that are not among the first `length` of the text."""
        if self.cache is None or self.positions is None:
            if self.cache is not None:
                self.cache.truncate(length)
            return
        known = self.positions
        kept = known.index < length if known.valid is None else (known.index < length) & known.valid
        slots = kept.any(0).nonzero()
        held = int(slots[-1]) + 1 if len(slots) else 0
        self.cache.truncate(held)
        self.positions = replace(known, valid=kept).map(lambda tensor: tensor[:, :held]) if held else None


@dataclass
class State:
    """What a model carries: the positions of the tokens that its layers still know, and a state for each layer.

    `context` holds the places of what cross-attention looks at, with its padding, and `looking` the layout of the last
    step over them, with what was made for it.
    """

    positions: Positions | None
    layers: list[LayerState]
    context: Positions | None = None
    looking: Layout | None = None

    def look(self, query: Positions) -> Layout:
        """The layout of `query` over the known context, whose padding holds zeros in every layer's state.

        Cross-attention knows no order: as many queries as before see what those saw.
        """
        assert self.context is not None
        held = self.looking
        if held is None or query.valid is not None or held.query.index.shape != query.index.shape:
            held = Layout.cross(query, self.context, finite=frozenset({"query", "key"}))
            self.looking = held if query.valid is None else None
        return held

    @property
    def length(self) -> int:
        """Tokens still known."""
        return 0 if self.positions is None else self.positions.index.shape[1]

    def next_positions(self, count: int, device: torch.device) -> Positions:
        """Where the next `count` tokens of each row stand: after the last real one."""
        if self.positions is None:
            return Positions.arange(count, device=device)
        held = self.positions
        step = torch.arange(1, count + 1, device=device)
        if held.valid is None:
            last, document = held.position[:, -1:], None if held.document is None else held.document[:, -1:]
        else:
            slot = torch.arange(held.valid.shape[1], device=device)
            place = slot.masked_fill(~held.valid, -1).amax(-1, keepdim=True)  # -1 in a row of padding alone
            last = held.position.gather(1, place.clamp(min=0)).masked_fill(place < 0, -1)
            document = None if held.document is None else held.document.gather(1, place.clamp(min=0))
        document = None if document is None else document.expand(-1, count)
        prefix = None if held.prefix is None else held.prefix[:, -1:].expand(-1, count)
        valid = None if held.valid is None else torch.ones_like(held.valid[:, :1]).expand(-1, count)
        return Positions(
            index=held.index[:, -1:] + step,
            position=last + step,
            document=document,
            prefix=prefix,
            valid=valid,
        )

    def reorder(self, rows: Int[Tensor, "N"], *, branches: Int[Tensor, "M"] | None = None) -> None:
        """Keep `rows` of the batch, in that order (a row may come twice): what beam search needs.

        `branches` are the rows of recurrent states, where a tree has one for each of its branches.
        """
        if self.positions is not None and self.positions.index.shape[0] > 1:
            self.positions = self.positions.map(lambda tensor: tensor.index_select(0, rows))
        if self.context is not None and self.context.index.shape[0] > 1:
            self.context = self.context.map(lambda tensor: tensor.index_select(0, rows))
        self.looking = None
        self.reorder_branches(rows if branches is None else branches)
        for layer in self.layers:
            if layer.cache is not None:
                layer.cache.reorder(rows)
            if layer.positions is not None and layer.positions.index.shape[0] > 1:
                layer.positions = layer.positions.map(lambda tensor: tensor.index_select(0, rows))
            if layer.memory is not None:
                layer.memory = layer.memory.index_select(0, rows)
            if layer.cross is not None:
                layer.cross = {k: v.index_select(0, rows) for k, v in layer.cross.items()}

    def keep(self, slots: Int[Tensor, "B N"]) -> None:
        """Of each row only the cached tokens at `slots`, as when branches of a tree have died; their order stays."""
        assert self.positions is not None
        rows = slots.shape[0]
        self.positions = self.positions.map(lambda tensor: tensor.expand(rows, -1).gather(1, slots))
        for layer in self.layers:
            if layer.cache is not None:
                layer.cache.keep(slots)

    def spread(self, times: int) -> None:
        """Each row's recurrent states `times` times, one behind the other: a branch of a tree each."""
        for layer in self.layers:
            layer.branches = [
                {name: held.repeat_interleave(times, 0) for name, held in branch.items()} for branch in layer.branches
            ]

    def reorder_branches(self, rows: Int[Tensor, "N"]) -> None:
        """`reorder` for recurrent states alone."""
        for layer in self.layers:
            layer.branches = [{k: v.index_select(0, rows) for k, v in branch.items()} for branch in layer.branches]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens; recurrent states cannot, and say so."""
        if length < 0 or length > self.length:
            raise SpecError(f"truncate needs a length from 0 to {self.length}, got {length}")
        if any(any(layer.branches) or layer.memory is not None for layer in self.layers) and length < self.length:
            raise SpecError("a recurrent state or a segment memory cannot be truncated: it keeps no past to go back to")
        if self.positions is not None:
            self.positions = self.positions.map(lambda tensor: tensor[:, :length]) if length else None
        for layer in self.layers:
            layer.truncate(length)


def extend(known: Positions | None, new: Positions) -> Positions:
    """The positions of known tokens followed by new ones; what only one side says is filled in for the other."""
    if known is None:
        return new
    rows = max(known.index.shape[0], new.index.shape[0])
    parts: dict[str, Tensor | None] = {}
    for name in (f.name for f in fields(new)):  # of the value: the compiler cannot read a class's
        pair = getattr(known, name), getattr(new, name)
        if pair[0] is None and pair[1] is None:
            parts[name] = None
            continue
        filled = [_neutral(name, side) if held is None else held for held, side in zip(pair, (known, new), strict=True)]
        parts[name] = torch.cat([tensor.expand(rows, -1) for tensor in filled], 1)
    return Positions(**parts)  # type: ignore[arg-type]


def _neutral(name: str, side: Positions) -> Tensor:
    if name == "valid":
        return torch.ones_like(side.index, dtype=torch.bool)
    return torch.zeros_like(side.index)
