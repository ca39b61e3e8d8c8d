"""Talking-heads attention (arXiv:2003.02436): heads mixed linearly before and after the softmax."""

from __future__ import annotations

import math

import numpy as np

from oracles.arrays import Array, Mask, softmax


def talking_heads_attention(
    q: Array,
    k: Array,
    v: Array,
    logits_projection: Array,
    weights_projection: Array,
    allowed: Mask,
    scale: float | None = None,
) -> Array:
    """Section 4: J = QK^T, L_h = sum_a J_a P_l[a, h], W = softmax(L), U_b = sum_h W_h P_w[h, b], O_b = U_b V_b.

    q [H_k, Tq, D], k [H_k, Tk, D], v [H_v, Tk, Dv], logits_projection P_l [H_k, H], weights_projection P_w [H, H_v],
    allowed [Tq, Tk] -> [H_v, Tq, Dv]. First axis of a projection: from; second: to. The mask falls between P_l and the
    softmax; the scores carry scale (1/sqrt(D) unless given).
    """
    in_heads, queries, width = q.shape
    keys = k.shape[1]
    heads, out_heads = weights_projection.shape
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    out = np.zeros((out_heads, queries, v.shape[2]))
    for i in range(queries):
        raw = np.zeros((in_heads, keys))
        for a in range(in_heads):
            for j in range(keys):
                raw[a, j] = factor * float(q[a, i] @ k[a, j])
        rows = np.zeros((heads, keys))
        for h in range(heads):
            mixed = np.zeros(keys)
            for a in range(in_heads):
                mixed += raw[a] * logits_projection[a, h]
            rows[h] = softmax(mixed, allowed[i])
        for b in range(out_heads):
            for h in range(heads):
                for j in range(keys):
                    out[b, i] += rows[h, j] * weights_projection[h, b] * v[b, j]
    return out
