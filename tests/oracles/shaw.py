"""Self-attention with relative position representations (arXiv:1803.02155): learned vectors on keys and on values."""

from __future__ import annotations

import math

import numpy as np

from oracles.arrays import Array, Mask, softmax


def relative_index(i: int, j: int, clip: int) -> int:
    """Section 3.2: clip(j - i, k) = max(-k, min(k, j - i)), moved by +k so that it counts from 0 to 2k."""
    return max(-clip, min(clip, j - i)) + clip


def shaw_attention(
    q: Array, k: Array, v: Array, key_table: Array | None, value_table: Array | None, allowed: Mask
) -> Array:
    """Equations 3 and 4: e_ij = q_i.(k_j + a^K_ij) / sqrt(D), z_i = sum_j softmax(e)_ij (v_j + a^V_ij).

    q [H, Tq, D], k [H, Tk, D], v [H, Tk, Dv], key_table w^K [2k+1, D], value_table w^V [2k+1, Dv] (shared by the heads)
    or with a leading H axis; None leaves that table out. allowed [Tq, Tk] -> [H, Tq, Dv]. Query i stands at key
    Tk - Tq + i. Row 0 of a table is the farthest past key (j - i = -k), row k the token itself.
    """
    heads, queries, width = q.shape
    keys = k.shape[1]
    out = np.zeros((heads, queries, v.shape[2]))
    for h in range(heads):
        for i in range(queries):
            here = keys - queries + i
            scores = np.zeros(keys)
            for j in range(keys):
                key = k[h, j]
                if key_table is not None:
                    table = key_table if key_table.ndim == 2 else key_table[h]
                    key = key + table[relative_index(here, j, table.shape[0] // 2)]
                scores[j] = float(q[h, i] @ key) / math.sqrt(width)
            row = softmax(scores, allowed[i])
            for j in range(keys):
                value = v[h, j]
                if value_table is not None:
                    table = value_table if value_table.ndim == 2 else value_table[h]
                    value = value + table[relative_index(here, j, table.shape[0] // 2)]
                out[h, i] += row[j] * value
    return out
