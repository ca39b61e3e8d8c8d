"""Attention Is All You Need (arXiv:1706.03762): the whole encoder-decoder, from token ids to logits.

Weight names and shapes (d = d_model, V = vocabulary, F = feed-forward width, H heads of width d_k and d_v):

    embedding.weight                          [V, d]     source, target and output projection share it (section 3.4)
    encoder.L.self.{query,key}.weight         [H*d_k, d]
    encoder.L.self.value.weight               [H*d_v, d]
    encoder.L.self.output.weight              [d, H*d_v]
    encoder.L.self_norm.{weight,bias}         [d]
    encoder.L.ffn.inner.weight                [F, d]
    encoder.L.ffn.outer.weight                [d, F]
    encoder.L.ffn_norm.{weight,bias}          [d]
    decoder.L.self.*, decoder.L.self_norm.*   as in the encoder
    decoder.L.cross.*, decoder.L.cross_norm.* queries from the decoder, keys and values from the encoder's output
    decoder.L.ffn.*, decoder.L.ffn_norm.*     as in the encoder
    output.bias                               [V]        optional

Every linear map also takes an optional `.bias`. L counts from 0.
"""

from __future__ import annotations

import math

import numpy as np

from oracles.arrays import Array, Ids, Mask, Weights, causal_mask, count_layers, layer_norm, linear, softmax


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of the same; pos from 0. -> [T, d]."""
    table = np.zeros((length, d_model))
    for position in range(length):
        for column in range(d_model):
            even = column - column % 2
            angle = position / 10000.0 ** (even / d_model)
            table[position, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    return table


def scaled_dot_product_attention(q: Array, k: Array, v: Array, allowed: Mask) -> Array:
    """Equation 1 for one head. q [Tq, d_k], k [Tk, d_k], v [Tk, d_v], allowed [Tq, Tk] -> [Tq, d_v]."""
    out = np.zeros((q.shape[0], v.shape[1]))
    for i in range(q.shape[0]):
        scores = np.array([float(q[i] @ k[j]) / math.sqrt(q.shape[1]) for j in range(k.shape[0])])
        row = softmax(scores, allowed[i])
        for j in range(k.shape[0]):
            out[i] += row[j] * v[j]
    return out


def multi_head_attention(
    x_query: Array, x_memory: Array, weights: Weights, name: str, num_heads: int, allowed: Mask
) -> Array:
    """Section 3.2.2. x_query [Tq, d], x_memory [Tk, d], weights `name.{query,key,value,output}`, allowed [Tq, Tk].

    Head h owns the h-th block of rows of the query, key and value matrices. -> [Tq, d].
    """
    q = linear(x_query, weights, f"{name}.query")
    k = linear(x_memory, weights, f"{name}.key")
    v = linear(x_memory, weights, f"{name}.value")
    d_k = q.shape[1] // num_heads
    d_v = v.shape[1] // num_heads
    heads = []
    for head in range(num_heads):
        qk = slice(head * d_k, (head + 1) * d_k)
        vv = slice(head * d_v, (head + 1) * d_v)
        heads.append(scaled_dot_product_attention(q[:, qk], k[:, qk], v[:, vv], allowed))
    return linear(np.concatenate(heads, axis=1), weights, f"{name}.output")


def feed_forward(x: Array, weights: Weights, name: str) -> Array:
    """Equation 2, max(0, x W1 + b1) W2 + b2, with `name.inner` and `name.outer`. x [T, d] -> [T, d]."""
    return linear(np.maximum(linear(x, weights, f"{name}.inner"), 0.0), weights, f"{name}.outer")


def embed(ids: Ids, weights: Weights) -> Array:
    """Sections 3.4 and 3.5: sqrt(d_model) * E[id] + PE. ids [T] -> [T, d]."""
    table = weights["embedding.weight"]
    d_model = table.shape[1]
    return math.sqrt(d_model) * table[ids] + sinusoidal_positions(len(ids), d_model)


def encode(source: Ids, weights: Weights, num_heads: int, source_keep: Mask | None = None, eps: float = 1e-5) -> Array:
    """Section 3.1, encoder: each sub-layer is LayerNorm(x + Sublayer(x)). source [S] -> [S, d].

    source_keep [S] is False at padding, which nobody attends to; None keeps every token.
    """
    keep = np.ones(len(source), dtype=np.bool_) if source_keep is None else source_keep
    allowed = np.tile(keep, (len(source), 1))
    x = embed(source, weights)
    for layer in range(count_layers(weights, "encoder")):
        at = f"encoder.{layer}"
        attended = multi_head_attention(x, x, weights, f"{at}.self", num_heads, allowed)
        x = layer_norm(x + attended, weights, f"{at}.self_norm", eps)
        x = layer_norm(x + feed_forward(x, weights, f"{at}.ffn"), weights, f"{at}.ffn_norm", eps)
    return x


def decode(
    target: Ids, memory: Array, weights: Weights, num_heads: int, source_keep: Mask | None = None, eps: float = 1e-5
) -> Array:
    """Section 3.1, decoder: causal self-attention, attention to the encoder, feed-forward, all post-norm.

    target [T] (already shifted right by the caller), memory [S, d] -> [T, d].
    """
    keep = np.ones(memory.shape[0], dtype=np.bool_) if source_keep is None else source_keep
    past = causal_mask(len(target), len(target))
    everywhere = np.tile(keep, (len(target), 1))
    x = embed(target, weights)
    for layer in range(count_layers(weights, "decoder")):
        at = f"decoder.{layer}"
        attended = multi_head_attention(x, x, weights, f"{at}.self", num_heads, past)
        x = layer_norm(x + attended, weights, f"{at}.self_norm", eps)
        crossed = multi_head_attention(x, memory, weights, f"{at}.cross", num_heads, everywhere)
        x = layer_norm(x + crossed, weights, f"{at}.cross_norm", eps)
        x = layer_norm(x + feed_forward(x, weights, f"{at}.ffn"), weights, f"{at}.ffn_norm", eps)
    return x


def forward(
    source: Ids,
    target: Ids,
    weights: Weights,
    num_heads: int,
    source_keep: Mask | None = None,
    eps: float = 1e-5,
) -> Array:
    """The model of figure 1 up to the softmax: logits = decoder output times embedding^T. -> [T, V]."""
    memory = encode(source, weights, num_heads, source_keep, eps)
    hidden = decode(target, memory, weights, num_heads, source_keep, eps)
    logits: Array = hidden @ weights["embedding.weight"].T
    if "output.bias" in weights:
        logits = logits + weights["output.bias"]
    return logits
