"""The truth that the compiled core is held against: the same attention with whole matrices, by autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attentune.spec.score_steps import AddByDistance, AddByQuery, LogAddExpByDistance, MultiplyByQuery, SoftCap, Step

SIZE = 64


@dataclass(frozen=True)
class Table:
    """Visible tiles, made from a matrix [rows Q K] of what is visible."""

    start: Tensor
    key_tile: Tensor
    pattern: Tensor
    patterns: Tensor


def table_of(visible: Tensor) -> Table:
    """The tiles of `visible` [rows Q K]; tiles that reach past an end have a pattern."""
    rows, queries, keys = visible.shape
    start, key_tile, pattern, known = [], [], [], {}
    for row in visible.numpy():
        start.append(len(key_tile))
        for i in range(0, queries, SIZE):
            for j in range(0, keys, SIZE):
                piece = row[i : i + SIZE, j : j + SIZE]
                if not piece.any():
                    continue
                key_tile.append(j // SIZE)
                if piece.shape == (SIZE, SIZE) and piece.all():
                    pattern.append(-1)
                    continue
                bits = np.zeros((SIZE, SIZE), bool)
                bits[: piece.shape[0], : piece.shape[1]] = piece
                words = np.packbits(bits, axis=1, bitorder="little").view(np.int64).reshape(-1)
                pattern.append(known.setdefault(words.tobytes(), len(known)))
            start.append(len(key_tile))
    patterns = np.frombuffer(b"".join(known), np.int64).reshape(-1, SIZE).copy()
    integers = (torch.tensor(x, dtype=torch.int32) for x in (start, key_tile, pattern))
    first, second, third = integers
    return Table(first.reshape(rows, -1), second, third, torch.from_numpy(patterns))


def dense_scores(
    q: Tensor, k: Tensor, scale: float, steps: Sequence[Step], query_position: Tensor, key_position: Tensor
) -> Tensor:
    """Scores [B H Q K] after all steps."""
    s = scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2)
    distance = query_position[:, :, None].long() - key_position[:, None, :].long()
    for step in steps:
        match step:
            case AddByDistance(table, first):
                s = s + looked_up(table, distance - first)
            case LogAddExpByDistance(table, first, constant):
                s = torch.logaddexp(s, looked_up(table, distance * 0 if constant else distance - first))
            case SoftCap(cap):
                s = cap * torch.tanh(s / cap)
            case MultiplyByQuery(factor):
                s = s * factor[..., None]
            case AddByQuery(term):
                s = s + term[..., None]
    return s


def looked_up(table: Tensor, place: Tensor) -> Tensor:
    """[H or 1, R] at [rows Q K] to [rows, H or 1, Q, K]."""
    return table[:, place.clamp(0, table.shape[1] - 1)].transpose(0, 1)


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    *,
    scale: float,
    steps: Sequence[Step] = (),
    query_position: Tensor,
    key_position: Tensor,
    extra_logit: Tensor | None = None,
    kind: str = "softmax",
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, weights and lse of the keys. Rows that see nothing give 0."""
    hidden = ~visible[:, None]
    s = dense_scores(q, k, scale, steps, query_position, key_position)
    seen = s.masked_fill(hidden, float("-inf"))
    lse = seen.logsumexp(-1)
    if kind == "softmax":
        if extra_logit is not None:
            seen = torch.cat([seen, extra_logit[:, None, None].expand(*s.shape[:3], 1)], -1)
        none = seen.isneginf().all(-1, keepdim=True)
        p = seen.masked_fill(none, 0.0).softmax(-1)[..., : s.shape[-1]]
    else:
        p = s.sigmoid() if kind == "sigmoid" else s.relu().square()
    p = p.masked_fill(hidden, 0.0)
    dropped = p if keep is None else p * keep
    return dropped @ v.repeat_interleave(q.shape[1] // v.shape[1], 1), p, lse
