"""Adaptive depth: which tokens go on to the next layer, as shorter rows, and what becomes of those that halt.

The formulas stand in `attentune.spec.halting`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import nn

from attentune.kernels.layout import Layout, LayoutKind
from attentune.layers.attention import Carry
from attentune.layers.state import LayerState, extend
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.halting import HaltingSpec


@final
class Halting(nn.Module):
    """p = sigmoid(w . h + b), in float32 (float64 for float64 states)."""

    def __init__(self, spec: HaltingSpec, *, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.full((1,), spec.bias))
        for parameter in self.parameters():
            parameter.weight_decay = False  # type: ignore[attr-defined]

    def forward(self, h: Float[Tensor, "B M E"]) -> Float[Tensor, "B M"]:
        exact = torch.promote_types(h.dtype, torch.float32)
        return torch.sigmoid((h.to(exact) * self.weight.to(exact)).sum(-1) + self.bias.to(exact))


@final
class Walk:
    """The way of some rows through the layers: after each one, the tokens that halt leave.

    `x` [B M E] holds the tokens that go on, each row its own, old to new, filled up with some that are not there;
    `layout` tells which they are, and where they stand in the text. M is the most that any row still has.
    """

    def __init__(self, halting: Halting, x: Float[Tensor, "B T E"], layout: Layout) -> None:
        exact = torch.promote_types(x.dtype, torch.float32)
        rows, length = x.shape[:2]
        self.halting, self.x, self.layout = halting, x, layout
        self.output = x.new_zeros(x.shape, dtype=exact)  # sum of p h
        self.depths = torch.zeros(rows, length, dtype=torch.long, device=x.device)
        self.remainders = x.new_zeros((), dtype=exact)  # sum of R over the tokens that have halted
        self.spent = x.new_zeros(rows, length, dtype=exact)  # sum of p so far
        self.place = torch.arange(length, device=x.device).expand(rows, -1)  # of each token in the whole row
        valid = layout.query.valid
        self.here = torch.ones_like(self.place, dtype=torch.bool) if valid is None else valid.expand(rows, -1)
        self.empty = False
        self._kept: Int[Tensor, "B N"] | None = None  # columns of the last x that are left; None: all of them

    def after(self, x: Float[Tensor, "B M E"], *, last: bool) -> None:
        """The layer has made `x` of the tokens under way."""
        p = self.halting(x)
        left = 1 - self.spent
        halts = torch.ones_like(self.here) if last else p >= left - self.halting.spec.epsilon
        share = torch.where(halts, left, p)
        told = (share[..., None] * x).masked_fill(~self.here[..., None], 0.0)
        self.output = self.output.scatter_add(1, self.place[..., None].expand_as(x), told)
        self.depths = self.depths.scatter_add(1, self.place, self.here.long())
        self.remainders = self.remainders + left.masked_fill(~(self.here & halts), 0.0).sum()
        self._go_on(x, self.spent + p, self.here & ~halts)

    def _go_on(self, x: Float[Tensor, "B M E"], spent: Float[Tensor, "B M"], on: Bool[Tensor, "B M"]) -> None:
        fewest, most = (int(count) for count in torch.aminmax(on.sum(1)))
        self.x, self.spent, self._kept = x, spent, None
        if fewest == on.shape[1]:
            return
        self.empty = most == 0
        kept = (~on).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(most, 1)]
        self.x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
        self.spent, self.place, self.here = (held.gather(1, kept) for held in (spent, self.place, on))
        where = self.layout.query.map(lambda held: held.expand(kept.shape[0], -1).gather(1, kept))
        where = replace(where, valid=self.here)
        kind = LayoutKind.PADDED if self.layout.kind is LayoutKind.PLAIN else self.layout.kind
        self.layout = Layout(kind, where, where)
        self._kept = kept

    def over_past(self, held: LayerState | None) -> Layout:
        """The layout of the tokens under way over those that a deeper layer has cached, where they join them."""
        if held is None:
            return self.layout
        query, kind = self.layout.query, self.layout.kind
        if held.cache is not None and held.positions is not None:
            held.positions = extend(held.positions, query)
            return Layout(LayoutKind.CACHED, query, held.positions)
        if held.cache is not None:
            held.positions = query
        return self.layout if self.layout.key is query else Layout(kind, query, query)

    def carried(self, carry: Carry | None) -> Carry | None:
        """What the last layer handed on, for the tokens that are left."""
        if self._kept is None or carry is None or carry.values is None:
            return carry
        _, groups, _, width = carry.values.shape
        columns = self._kept[:, None, :, None].expand(-1, groups, -1, width)
        return replace(carry, values=carry.values.gather(2, columns))

    @property
    def cost(self) -> Float[Tensor, ""]:
        """The weighted mean of N + R over the tokens; its gradient is that of R."""
        tokens = (self.depths > 0).sum().clamp(min=1)
        return self.halting.spec.weight * (self.depths.sum() + self.remainders) / tokens
