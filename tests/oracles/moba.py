"""Mixture of block attention, MoBA (arXiv:2502.13189): each query reads its own block and the best past ones."""

from __future__ import annotations

import math

import numpy as np

from oracles.arrays import Array, Mask, softmax


def select_blocks(q: Array, k: Array, block_size: int, top_k: int) -> Mask:
    """Section 2.2: which blocks each query reads, its own among the top_k. q [H, T, D], k [H, T, D] -> [H, T, N].

    Block n is tokens n*B to (n+1)*B - 1, the last one possibly shorter. A past block scores <q, mean of its keys>;
    a later block scores -inf and the query's own +inf. Of equal scores the earlier block wins.
    """
    heads, length, _ = q.shape
    blocks = math.ceil(length / block_size)
    chosen = np.zeros((heads, length, blocks), dtype=np.bool_)
    for h in range(heads):
        for i in range(length):
            own = i // block_size
            chosen[h, i, own] = True
            scored = []
            for n in range(own):
                mean_key = k[h, n * block_size : (n + 1) * block_size].mean(axis=0)
                scored.append((-float(q[h, i] @ mean_key), n))
            for _, n in sorted(scored)[: max(0, top_k - 1)]:
                chosen[h, i, n] = True
    return chosen


def moba_attention(q: Array, k: Array, v: Array, block_size: int, top_k: int, scale: float | None = None) -> Array:
    """Equations 2 to 6: one softmax over the causal tokens of the chosen blocks. q, k [H, T, D], v [H, T, Dv].

    top_k counts the query's own block. -> [H, T, Dv].
    """
    heads, length, width = q.shape
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    chosen = select_blocks(q, k, block_size, top_k)
    out = np.zeros((heads, length, v.shape[2]))
    for h in range(heads):
        for i in range(length):
            scores = np.array([factor * float(q[h, i] @ k[h, j]) for j in range(length)])
            allowed = np.array([j <= i and bool(chosen[h, i, j // block_size]) for j in range(length)])
            out[h, i] = softmax(scores, allowed) @ v[h]
    return out
