"""Transformer-XL (arXiv:1901.02860): relative attention over the memory of earlier segments, one layer and a stack.

Weight names and shapes (d = model width, H heads of width D, F = feed-forward width, L from 0):

    layers.L.attention.query.weight      [H*D, d]   W_q
    layers.L.attention.key.weight        [H*D, d]   W_{k,E}, content keys
    layers.L.attention.position.weight   [H*D, d]   W_{k,R}, keys of the sinusoids
    layers.L.attention.value.weight      [H*D, d]   W_v
    layers.L.attention.output.weight     [d, H*D]
    layers.L.attention.bias_u            [H, D]     u, added to the query against content
    layers.L.attention.bias_v            [H, D]     v, added to the query against position
    layers.L.attention_norm.{weight,bias}, layers.L.ffn_norm.{weight,bias}   [d]
    layers.L.ffn.inner.weight [F, d], layers.L.ffn.outer.weight [d, F]
    final_norm.{weight,bias}             [d]        optional, applied to the stack's output when present
    embedding.weight                     [V, d]     only for `language_model`

Every linear map also takes an optional `.bias`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from oracles.arrays import Array, Ids, Weights, count_layers, layer_norm, linear, softmax

Layout = Literal["interleaved", "halves"]


def relative_sinusoid(distance: int, d_model: int, layout: Layout = "interleaved") -> Array:
    """Section 3.3: R_{i-j}, the sinusoid of arXiv:1706.03762 at the distance i - j (0 is the query itself). -> [d].

    "interleaved" is sin, cos, sin, cos, ... as in the 2017 paper; "halves" is every sin, then every cos.
    """
    half = d_model // 2
    angles = [distance / 10000.0 ** (2 * i / d_model) for i in range(half)]
    r = np.zeros(d_model)
    for i, angle in enumerate(angles):
        if layout == "interleaved":
            r[2 * i], r[2 * i + 1] = math.sin(angle), math.cos(angle)
        else:
            r[i], r[half + i] = math.sin(angle), math.cos(angle)
    return r


def relative_attention(
    h: Array,
    memory: Array,
    weights: Weights,
    name: str,
    num_heads: int,
    layout: Layout = "interleaved",
    scale: float | None = None,
) -> Array:
    """Section 3.3, the four terms (a) to (d) of A^rel, causal. h [T, d], memory [M, d] (M may be 0) -> [T, d].

    Key j of [memory; h] is at distance M + i - j from query i and is seen when that is not negative. With q_i, k_j of
    one head: A_ij = q_i.k_j + q_i.(W_kR R) + u.k_j + v.(W_kR R), times `scale` (1/sqrt(D) unless given).
    """
    both = np.concatenate([memory, h], axis=0)
    length, past = h.shape[0], memory.shape[0]
    q = linear(h, weights, f"{name}.query")
    k = linear(both, weights, f"{name}.key")
    v = linear(both, weights, f"{name}.value")
    width = q.shape[1] // num_heads
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    merged = np.zeros((length, num_heads * width))
    for head in range(num_heads):
        at = slice(head * width, (head + 1) * width)
        u = weights[f"{name}.bias_u"][head]
        bias_v = weights[f"{name}.bias_v"][head]
        for i in range(length):
            scores = np.zeros(past + length)
            allowed = np.zeros(past + length, dtype=np.bool_)
            for j in range(past + length):
                distance = past + i - j
                if distance < 0:
                    continue
                allowed[j] = True
                r = linear(relative_sinusoid(distance, h.shape[1], layout), weights, f"{name}.position")[at]
                content = float(q[i, at] @ k[j, at])
                position = float(q[i, at] @ r)
                content_bias = float(u @ k[j, at])
                position_bias = float(bias_v @ r)
                scores[j] = factor * (content + position + content_bias + position_bias)
            merged[i, at] = softmax(scores, allowed) @ v[:, at]
    return linear(merged, weights, f"{name}.output")


def layer_forward(
    h: Array,
    memory: Array,
    weights: Weights,
    name: str,
    num_heads: int,
    pre_norm: bool = False,
    layout: Layout = "interleaved",
    eps: float = 1e-5,
) -> Array:
    """Section 3.3, one layer: relative attention, then a ReLU feed-forward. h [T, d], memory [M, d] -> [T, d].

    Post-norm (the paper): norm(h + attention(h, memory)). Pre-norm: h + attention(norm(h), norm(memory)), where the
    memory keeps states from before the norm.
    """
    attention, ffn = f"{name}.attention", f"{name}.ffn"
    if pre_norm:
        normed = layer_norm(h, weights, f"{name}.attention_norm", eps)
        normed_memory = layer_norm(memory, weights, f"{name}.attention_norm", eps)
        h = h + relative_attention(normed, normed_memory, weights, attention, num_heads, layout)
        inner = linear(layer_norm(h, weights, f"{name}.ffn_norm", eps), weights, f"{ffn}.inner")
        return h + linear(np.maximum(inner, 0.0), weights, f"{ffn}.outer")
    attended = relative_attention(h, memory, weights, attention, num_heads, layout)
    h = layer_norm(h + attended, weights, f"{name}.attention_norm", eps)
    inner = linear(h, weights, f"{ffn}.inner")
    return layer_norm(h + linear(np.maximum(inner, 0.0), weights, f"{ffn}.outer"), weights, f"{name}.ffn_norm", eps)


def stack_forward(
    segments: Sequence[Array],
    weights: Weights,
    num_heads: int,
    memory_length: int,
    pre_norm: bool = False,
    layout: Layout = "interleaved",
    eps: float = 1e-5,
) -> list[Array]:
    """Section 3.2: segments in order, layer l attending to the last M inputs it was given before this segment.

    segments: arrays [T_s, d] of layer-0 inputs -> one [T_s, d] a segment. The memory starts empty, and holds inputs of
    several segments where memory_length exceeds a segment.
    """
    depth = count_layers(weights, "layers")
    width = segments[0].shape[1]
    memories = [np.zeros((0, width)) for _ in range(depth)]
    outputs = []
    for segment in segments:
        h = segment
        for layer in range(depth):
            fresh = h
            h = layer_forward(h, memories[layer], weights, f"layers.{layer}", num_heads, pre_norm, layout, eps)
            joined = np.concatenate([memories[layer], fresh], axis=0)
            memories[layer] = joined[max(0, joined.shape[0] - memory_length) :]
        if "final_norm.weight" in weights:
            h = layer_norm(h, weights, "final_norm", eps)
        outputs.append(h)
    return outputs


def language_model(
    segments: Sequence[Ids],
    weights: Weights,
    num_heads: int,
    memory_length: int,
    pre_norm: bool = False,
    layout: Layout = "interleaved",
    eps: float = 1e-5,
    embedding_scale: float | None = None,
) -> list[Array]:
    """Token ids to logits with a tied plain softmax: h^0 = sqrt(d) E[id], no absolute position. Each [T_s] -> [T_s, V].

    embedding_scale replaces sqrt(d) where given.
    """
    table = weights["embedding.weight"]
    factor = math.sqrt(table.shape[1]) if embedding_scale is None else embedding_scale
    inputs = [factor * table[ids] for ids in segments]
    hidden = stack_forward(inputs, weights, num_heads, memory_length, pre_norm, layout, eps)
    return [h @ table.T for h in hidden]
