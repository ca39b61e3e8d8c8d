"""RealFormer (arXiv:2012.11747): each layer adds the previous layer's attention scores to its own before the softmax.

Weight names and shapes for `stack_forward` (d = model width, H heads of width D, F = feed-forward width, L from 0):

    layers.L.attention.{query,key,value}.weight [H*D, d], layers.L.attention.output.weight [d, H*D]
    layers.L.attention_norm.{weight,bias} [d]
    layers.L.ffn.inner.weight [F, d], layers.L.ffn.outer.weight [d, F], layers.L.ffn_norm.{weight,bias} [d]

Every linear map also takes an optional `.bias`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from oracles.arrays import Array, Mask, Weights, count_layers, layer_norm, linear, merge_heads, softmax, split_heads


def residual_attention(q: Array, k: Array, v: Array, previous: Array | None, allowed: Mask) -> tuple[Array, Array]:
    """Section 3: softmax(QK^T / sqrt(d_k) + Prev) V, and the scores that the next layer receives.

    q [H, Tq, D], k [H, Tk, D], v [H, Tk, Dv], previous [H, Tq, Tk] or None, allowed [Tq, Tk]
    -> out [H, Tq, Dv], scores [H, Tq, Tk]: scaled, with the previous ones added, before mask and softmax.
    """
    heads, queries, width = q.shape
    keys = k.shape[1]
    scores = np.zeros((heads, queries, keys))
    out = np.zeros((heads, queries, v.shape[2]))
    for h in range(heads):
        for i in range(queries):
            for j in range(keys):
                scores[h, i, j] = float(q[h, i] @ k[h, j]) / math.sqrt(width)
                if previous is not None:
                    scores[h, i, j] += previous[h, i, j]
            out[h, i] = softmax(scores[h, i], allowed[i]) @ v[h]
    return out, scores


def gelu(x: Array) -> Array:
    """Exact GELU, x * Phi(x) (arXiv:1606.08415), entry by entry."""
    flat = [value * 0.5 * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x.ravel()]
    return np.array(flat).reshape(x.shape)


def stack_forward(
    x: Array,
    weights: Weights,
    num_heads: int,
    allowed: Mask,
    activation: Literal["gelu", "relu"] = "gelu",
    pre_norm: bool = False,
    eps: float = 1e-5,
) -> Array:
    """Section 3 and figure 1(c): a post-norm stack whose scores run from layer to layer. x [T, d], allowed [T, T].

    The first layer receives no scores. pre_norm norms each sub-layer's input instead, with no norm at the end.
    -> [T, d].
    """
    scores: Array | None = None
    for layer in range(count_layers(weights, "layers")):
        at = f"layers.{layer}"
        source = layer_norm(x, weights, f"{at}.attention_norm", eps) if pre_norm else x
        q, k, v = (
            split_heads(linear(source, weights, f"{at}.attention.{part}"), num_heads)
            for part in ("query", "key", "value")
        )
        out, scores = residual_attention(q, k, v, scores, allowed)
        x = x + linear(merge_heads(out), weights, f"{at}.attention.output")
        if not pre_norm:
            x = layer_norm(x, weights, f"{at}.attention_norm", eps)
        source = layer_norm(x, weights, f"{at}.ffn_norm", eps) if pre_norm else x
        inner = linear(source, weights, f"{at}.ffn.inner")
        active = gelu(inner) if activation == "gelu" else np.maximum(inner, 0.0)
        x = x + linear(active, weights, f"{at}.ffn.outer")
        if not pre_norm:
            x = layer_norm(x, weights, f"{at}.ffn_norm", eps)
    return x
