"""What the compiled core computes, densely and in plain torch: from a tile table and score steps alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attentune.kernels.tile_table import SIZE, WHOLLY, TileTable
from attentune.spec.score_steps import AddByDistance, AddByQuery, LogAddExpByDistance, MultiplyByQuery, SoftCap, Step


@dataclass
class Given:
    output: Tensor
    key_lse: Tensor
    column_mass: Tensor = field(default_factory=lambda: torch.empty(0))
    entropy: Tensor = field(default_factory=lambda: torch.empty(0))
    top_k: tuple[Tensor, Tensor] | None = None


def visible(table: TileTable) -> Tensor:
    """[rows Q K], from the lists by query tile."""
    return _drawn(table, table.start, table.key_tile, table.pattern, by_key=False)


def visible_by_key(table: TileTable) -> Tensor:
    """[rows Q K], from the lists by key tile."""
    return _drawn(table, table.key_start, table.query_tile, table.key_pattern, by_key=True)


def _drawn(table: TileTable, start: Tensor, other: Tensor, pattern: Tensor, *, by_key: bool) -> Tensor:
    query_tiles, key_tiles = -(-table.queries // SIZE), -(-table.keys // SIZE)
    seen = torch.zeros(table.rows, query_tiles * SIZE, key_tiles * SIZE, dtype=torch.bool)
    bits = (table.patterns[..., None] >> torch.arange(64)) & 1
    for row in range(table.rows):
        for tile in range(start.shape[1] - 1):
            for place in range(int(start[row, tile]), int(start[row, tile + 1])):
                i, j = (int(other[place]), tile) if by_key else (tile, int(other[place]))
                held = seen[row, i * SIZE : (i + 1) * SIZE, j * SIZE : (j + 1) * SIZE]
                assert not held.any()
                held[:] = True if pattern[place] == WHOLLY else bits[int(pattern[place])].bool()
    assert not seen[:, table.queries :].any()
    assert not seen[:, :, table.keys :].any()
    return seen[:, : table.queries, : table.keys]


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    table: TileTable,
    query_position: Tensor,
    key_position: Tensor,
    steps: Sequence[Step],
    extra_logit: Tensor | None,
    kind: str,
    dropout: float,
    seed: Tensor,
    wanted: frozenset[str],
    top: int,
    known: object = None,
) -> Given:
    assert known is None
    exact = torch.float64 if q.dtype is torch.float64 else torch.float32
    assert query_position.dtype is key_position.dtype is torch.int32
    assert query_position.shape[0] == key_position.shape[0] in (1, q.shape[0])
    group = q.shape[1] // k.shape[1]
    seen = visible(table)
    q = q.masked_fill(~seen.any(2)[:, None, :, None], 0.0)  # padding may hold anything
    k, v = (x.masked_fill(~seen.any(1)[:, None, :, None], 0.0) for x in (k, v))
    keys, values = (x.to(exact).repeat_interleave(group, 1) for x in (k, v))
    s = scale * (q.to(exact) @ keys.transpose(-1, -2))
    distance = (query_position[:, :, None] - key_position[:, None, :]).long()
    for step in steps:
        match step:
            case AddByDistance() | LogAddExpByDistance():
                constant = isinstance(step, LogAddExpByDistance) and step.constant
                # Hidden pairs of a visible tile are looked up too; those elsewhere need no entry.
                place = (distance - step.first).clamp(0, step.table.shape[1] - 1) * (not constant)
                assert constant or torch.equal(place[seen], (distance - step.first)[seen])
                numbers = step.table[:, place].transpose(0, 1)
                s = s + numbers if isinstance(step, AddByDistance) else torch.logaddexp(s, numbers)
            case SoftCap():
                s = step.cap * torch.tanh(s / step.cap)
            case MultiplyByQuery():
                assert step.factor.shape[2] == q.shape[2]
                s = s * step.factor[..., None]
            case AddByQuery():
                assert step.term.shape[2] == q.shape[2]
                s = s + step.term[..., None]
    hidden = ~seen[:, None]
    if kind == "softmax":
        any_seen = ~hidden.all(-1, keepdim=True)
        s = s.masked_fill(hidden, float("-inf"))
        key_lse = s.logsumexp(-1)
        lse = key_lse if extra_logit is None else torch.logaddexp(key_lse, extra_logit[:, None])
        finite = torch.where(any_seen, s, 0.0)
        p = (finite - torch.where(any_seen, lse[..., None], 0.0)).exp().masked_fill(~any_seen | hidden, 0.0)
    else:
        key_lse = s.masked_fill(hidden, float("-inf")).logsumexp(-1)
        p = (torch.sigmoid(s) if kind == "sigmoid" else torch.relu(s).square()).masked_fill(hidden, 0.0)
    kept = p
    if dropout:
        generator = torch.Generator().manual_seed(int(seed))
        kept = p * (torch.rand(p.shape, generator=generator) >= dropout) / (1 - dropout)
    best = p.topk(top, -1)
    return Given(
        (kept @ values).to(q.dtype),
        key_lse,
        p.sum(-2),
        torch.special.entr(p).sum(-1),
        (best.values, best.indices),
    )
