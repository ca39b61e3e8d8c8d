"""Linear maps, normalisation and softmax shared by the oracles: numpy float64, one sequence, no batch axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ids = NDArray[np.int64]
Weights = Mapping[str, Array]


def linear(x: Array, weights: Weights, name: str) -> Array:
    """x W^T + b. x [..., in], `name.weight` [out, in], `name.bias` [out] (a missing bias is zero) -> [..., out]."""
    y: Array = x @ weights[f"{name}.weight"].T
    if f"{name}.bias" in weights:
        y = y + weights[f"{name}.bias"]
    return y


def layer_norm(x: Array, weights: Weights, name: str, eps: float = 1e-5) -> Array:
    """LayerNorm over the last axis with the biased variance. x [..., d], `name.weight` [d] (else 1), `name.bias` [d].

    Ba et al., arXiv:1607.06450, equation 4; eps is added to the variance, under the square root.
    """
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    y: Array = (x - mean) / np.sqrt(variance + eps)
    if f"{name}.weight" in weights:
        y = y * weights[f"{name}.weight"]
    if f"{name}.bias" in weights:
        y = y + weights[f"{name}.bias"]
    return y


def rms_norm(x: Array, weights: Weights, name: str, eps: float = 1e-5) -> Array:
    """RMSNorm over the last axis (arXiv:1910.07467, equation 4). x [..., d], `name.weight` [d] (else 1)."""
    y: Array = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    if f"{name}.weight" in weights:
        y = y * weights[f"{name}.weight"]
    return y


def softmax(scores: Array, allowed: Mask) -> Array:
    """Softmax of one row over the allowed entries. scores [n], allowed [n] -> [n]; nothing allowed gives zeros."""
    weights = np.zeros_like(scores)
    if allowed.any():
        weights[allowed] = np.exp(scores[allowed] - scores[allowed].max())
        weights /= weights.sum()
    return weights


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), entry by entry."""
    y: Array = 1.0 / (1.0 + np.exp(-x))
    return y


def split_heads(x: Array, num_heads: int) -> Array:
    """Head h holds columns h*D to (h+1)*D. x [T, H*D] -> [H, T, D]."""
    width = x.shape[1] // num_heads
    return np.stack([x[:, head * width : (head + 1) * width] for head in range(num_heads)])


def merge_heads(x: Array) -> Array:
    """Heads side by side, head 0 first. x [H, T, D] -> [T, H*D]."""
    return np.concatenate(list(x), axis=-1)


def causal_mask(num_queries: int, num_keys: int) -> Mask:
    """True where query i may see key j; the last query stands at the last key. -> [num_queries, num_keys]."""
    offset = num_keys - num_queries
    allowed = np.zeros((num_queries, num_keys), dtype=np.bool_)
    for i in range(num_queries):
        for j in range(num_keys):
            allowed[i, j] = j <= i + offset
    return allowed


def count_layers(weights: Weights, prefix: str) -> int:
    """How many consecutive `prefix.0`, `prefix.1`, ... there are among the names."""
    count = 0
    while any(name.startswith(f"{prefix}.{count}.") for name in weights):
        count += 1
    return count
