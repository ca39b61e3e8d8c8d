"""Gated attention for language models (arXiv:2505.06708): a sigmoid gate on each head's attention output (G1).

Weight names and shapes (d = model width, H query heads, G key/value heads, width D):

    query.weight [H*D, d], key.weight [G*D, d], value.weight [G*D, d], output.weight [d, H*D]
    gate.weight  [H*D, d] elementwise, [H, d] headwise
    norm.weight  [d], norm.bias [d]      only for `pre_norm_sublayer`

Every linear map also takes an optional `.bias`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from oracles.arrays import Array, Weights, layer_norm, linear, rms_norm, sigmoid, softmax

Gate = Literal["elementwise", "headwise"]


def attention_heads(x: Array, weights: Weights, num_heads: int, num_kv_heads: int) -> Array:
    """Causal softmax attention, query head h reading key/value head h // (H/G). x [T, d] -> [H, T, D]."""
    length = x.shape[0]
    q, k, v = (linear(x, weights, name) for name in ("query", "key", "value"))
    width = q.shape[1] // num_heads
    group = num_heads // num_kv_heads
    out = np.zeros((num_heads, length, width))
    for head in range(num_heads):
        query = slice(head * width, (head + 1) * width)
        shared = slice((head // group) * width, (head // group + 1) * width)
        for i in range(length):
            scores = np.array([float(q[i, query] @ k[j, shared]) / math.sqrt(width) for j in range(i + 1)])
            row = softmax(scores, np.ones(i + 1, dtype=np.bool_))
            for j in range(i + 1):
                out[head, i] += row[j] * v[j, shared]
    return out


def gate_heads(y: Array, x: Array, weights: Weights, gate: Gate = "elementwise") -> Array:
    """Equation 5, Y' = Y * sigmoid(X W_theta), the gate of token i made from x_i. y [H, T, D], x [T, d] -> [H, T, D].

    Elementwise: entry (h, d) of token i has its own gate, row h*D + d of the matrix. Headwise: one gate a head.
    """
    scores = sigmoid(linear(x, weights, "gate"))
    gated = np.zeros_like(y)
    heads, length, width = y.shape
    for head in range(heads):
        for i in range(length):
            for d in range(width):
                column = head * width + d if gate == "elementwise" else head
                gated[head, i, d] = y[head, i, d] * scores[i, column]
    return gated


def gated_attention(
    x: Array, weights: Weights, num_heads: int, num_kv_heads: int | None = None, gate: Gate = "elementwise"
) -> Array:
    """Section 2.2, position G1: attention, gate, then the output projection. x [T, d], already normed -> [T, d].

    The gate reads the same normed input as the queries. Positions are left out: apply none in the layer compared.
    """
    heads = attention_heads(x, weights, num_heads, num_heads if num_kv_heads is None else num_kv_heads)
    gated = gate_heads(heads, x, weights, gate)
    return linear(np.concatenate(list(gated), axis=1), weights, "output")


def pre_norm_sublayer(
    h: Array,
    weights: Weights,
    num_heads: int,
    num_kv_heads: int | None = None,
    gate: Gate = "elementwise",
    norm: Literal["rms", "layer"] = "rms",
    eps: float = 1e-5,
) -> Array:
    """h + gated_attention(norm(h)): attention and gate both see the normed state. h [T, d] -> [T, d]."""
    x = rms_norm(h, weights, "norm", eps) if norm == "rms" else layer_norm(h, weights, "norm", eps)
    return h + gated_attention(x, weights, num_heads, num_kv_heads, gate)
