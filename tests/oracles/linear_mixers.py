"""Token loops of linear-time mixers: linear attention, FAVOR+, retention, the delta rule and its gated form.

Arrays are [H, T, D], heads first. A mixer's state maps keys to values; token loops read it after token t has been
written. Names and shapes for `multi_scale_retention` (d = model width, value width Dv a head):

    query.weight, key.weight [H*D, d], value.weight, gate.weight [H*Dv, d], output.weight [d, H*Dv]
    group_norm.weight, group_norm.bias [H*Dv]   optional

Every linear map also takes an optional `.bias`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from oracles.arrays import Array, Weights, linear, merge_heads, sigmoid, split_heads

Pairing = Literal["adjacent", "halves"]


# Linear attention


def elu_plus_one(x: Array) -> Array:
    """Equation 7 of arXiv:2006.16236, phi(x) = elu(x) + 1: x + 1 above 0, e^x elsewhere."""
    return np.where(x > 0.0, x + 1.0, np.exp(np.minimum(x, 0.0)))


def _kernel_attention(phi_q: Array, phi_k: Array, v: Array, causal: bool, epsilon: float) -> Array:
    """phi(q).S / (phi(q).z + epsilon), S = sum of phi(k) v^T, z = sum of phi(k). phi [H, T, m], v [H, T, Dv]."""
    heads, length, features = phi_q.shape
    out = np.zeros((heads, length, v.shape[2]))
    for h in range(heads):
        state = np.zeros((features, v.shape[2]))
        normaliser = np.zeros(features)
        if not causal:
            for j in range(phi_k.shape[1]):
                state += np.outer(phi_k[h, j], v[h, j])
                normaliser += phi_k[h, j]
        for t in range(length):
            if causal:
                state += np.outer(phi_k[h, t], v[h, t])
                normaliser += phi_k[h, t]
            out[h, t] = (phi_q[h, t] @ state) / (float(phi_q[h, t] @ normaliser) + epsilon)
    return out


def linear_attention(q: Array, k: Array, v: Array, causal: bool = True, epsilon: float = 0.0) -> Array:
    """Equations 16 to 20 of arXiv:2006.16236 (causal), equation 5 otherwise, phi = elu + 1.

    q, k [H, T, D], v [H, T, Dv] -> [H, T, Dv]. No scaling of q or k.
    """
    return _kernel_attention(elu_plus_one(q), elu_plus_one(k), v, causal, epsilon)


# FAVOR+


def positive_features(x: Array, projection: Array, hyperbolic: bool = False) -> Array:
    """Lemma 1 of arXiv:2009.14794: exp(-|x|^2 / 2) / sqrt(m) * exp(w_r.x). x [T, D], projection rows w_r [m, D].

    hyperbolic: exp(w.x) and exp(-w.x) side by side, over sqrt(2m). -> [T, m], or [T, 2m].
    """
    length = x.shape[0]
    rows = projection.shape[0]
    features = np.zeros((length, 2 * rows if hyperbolic else rows))
    for t in range(length):
        size = math.exp(-float(x[t] @ x[t]) / 2.0)
        for r in range(rows):
            dot = float(projection[r] @ x[t])
            if hyperbolic:
                features[t, r] = size * math.exp(dot) / math.sqrt(2 * rows)
                features[t, rows + r] = size * math.exp(-dot) / math.sqrt(2 * rows)
            else:
                features[t, r] = size * math.exp(dot) / math.sqrt(rows)
    return features


def favor_attention(
    q: Array,
    k: Array,
    v: Array,
    projection: Array,
    causal: bool = True,
    hyperbolic: bool = False,
    epsilon: float = 0.0,
) -> Array:
    """Section 2 of arXiv:2009.14794: kernel attention on the features of q / D^(1/4) and k / D^(1/4).

    q, k [H, T, D], v [H, T, Dv], projection [m, D] or [H, m, D] -> [H, T, Dv]. epsilon is added to the normaliser.
    """
    heads, _, width = q.shape
    root = width**0.25
    per_head = projection if projection.ndim == 3 else np.stack([projection] * heads)
    phi_q = np.stack([positive_features(q[h] / root, per_head[h], hyperbolic) for h in range(heads)])
    phi_k = np.stack([positive_features(k[h] / root, per_head[h], hyperbolic) for h in range(heads)])
    return _kernel_attention(phi_q, phi_k, v, causal, epsilon)


# Retention


def retention_decays(num_heads: int) -> Array:
    """Equation 8 of arXiv:2307.08621: gamma_h = 1 - 2^(-5 - h), h from 0. -> [H]."""
    return np.array([1.0 - 2.0 ** (-5 - h) for h in range(num_heads)])


def rotation_angles(width: int, spacing: Literal["rope", "released"] = "rope") -> Array:
    """theta of equation 3, one an adjacent pair. -> [D/2].

    "rope": 10000^(-2i/D). "released": 10000^(-i/(D/2 - 1)), evenly spaced up to 10000^-1 itself.
    """
    half = width // 2
    if spacing == "rope":
        return np.array([10000.0 ** (-2.0 * i / width) for i in range(half)])
    return np.array([10000.0 ** (-i / max(half - 1, 1)) for i in range(half)])


def rotate(x: Array, angles: Array, pairing: Pairing = "adjacent", start: int = 0) -> Array:
    """Multiply pair i of token n by e^{i n theta_i}; n counts from start. x [T, D], angles [D/2] -> [T, D].

    Adjacent pairs are (2i, 2i+1), halves are (i, i + D/2); the first of a pair is the real part.
    """
    length, width = x.shape
    out = np.zeros_like(x)
    for t in range(length):
        for i in range(width // 2):
            a, b = (2 * i, 2 * i + 1) if pairing == "adjacent" else (i, i + width // 2)
            angle = (start + t) * float(angles[i])
            out[t, a] = x[t, a] * math.cos(angle) - x[t, b] * math.sin(angle)
            out[t, b] = x[t, b] * math.cos(angle) + x[t, a] * math.sin(angle)
    return out


def retention(q: Array, k: Array, v: Array, decays: Array) -> Array:
    """Equation 6 of arXiv:2307.08621: S_n = gamma S_{n-1} + k_n^T v_n, o_n = q_n S_n. Rotated q, k in.

    q, k [H, T, D], v [H, T, Dv], decays [H] -> [H, T, Dv].
    """
    heads, length, width = q.shape
    out = np.zeros((heads, length, v.shape[2]))
    for h in range(heads):
        state = np.zeros((width, v.shape[2]))
        for n in range(length):
            state = float(decays[h]) * state + np.outer(k[h, n], v[h, n])
            out[h, n] = q[h, n] @ state
    return out


def retention_parallel(q: Array, k: Array, v: Array, decays: Array, normalise: bool = False) -> Array:
    """Equation 5 of arXiv:2307.08621: (Q K^T * D) V, D_nm = gamma^(n - m) at n >= m. Shapes as in `retention`.

    normalise: section 2.2's scale-only steps, D_nm / sqrt(sum_i D_ni), then R_nm / max(|sum_i R_ni|, 1). They change
    each token's scale alone, so the group norm undoes them but for its eps.
    """
    heads, length, _ = q.shape
    out = np.zeros((heads, length, v.shape[2]))
    for h in range(heads):
        for n in range(length):
            decay = np.array([float(decays[h]) ** (n - m) for m in range(n + 1)])
            if normalise:
                decay = decay / math.sqrt(float(decay.sum()))
            row = np.array([float(q[h, n] @ k[h, m]) * float(decay[m]) for m in range(n + 1)])
            if normalise:
                row = row / max(abs(float(row.sum())), 1.0)
            for m in range(n + 1):
                out[h, n] += row[m] * v[h, m]
    return out


def head_norm(y: Array, kind: Literal["group", "rms"] = "group", eps: float = 1e-5) -> Array:
    """Each token's head normed by itself, no gain: "group" takes off the mean, "rms" does not. [H, T, Dv] -> same."""
    out = np.zeros_like(y)
    for h in range(y.shape[0]):
        for t in range(y.shape[1]):
            row = y[h, t] - y[h, t].mean() if kind == "group" else y[h, t]
            out[h, t] = row / math.sqrt(float((row**2).mean()) + eps)
    return out


def multi_scale_retention(
    x: Array,
    weights: Weights,
    num_heads: int,
    angles: Array | None = None,
    pairing: Pairing = "adjacent",
    norm: Literal["group", "rms"] = "group",
    eps: float = 1e-5,
    scale: float | None = None,
    decays: Array | None = None,
    normalise: bool = False,
) -> Array:
    """Equation 8 of arXiv:2307.08621: (swish(X W_G) * GroupNorm(heads)) W_O, heads by the recurrent loop. x [T, d].

    Keys carry scale (D^-0.5 unless given); angles are `rotation_angles(D)` and decays `retention_decays(H)` unless
    given. normalise takes the parallel form with section 2.2's extra scales. -> [T, d].
    """
    q, k, v = (split_heads(linear(x, weights, name), num_heads) for name in ("query", "key", "value"))
    width = q.shape[2]
    theta = rotation_angles(width) if angles is None else angles
    gammas = retention_decays(num_heads) if decays is None else decays
    factor = width**-0.5 if scale is None else scale
    q = np.stack([rotate(q[h], theta, pairing) for h in range(num_heads)])
    k = np.stack([rotate(factor * k[h], theta, pairing) for h in range(num_heads)])
    heads = retention_parallel(q, k, v, gammas, normalise=True) if normalise else retention(q, k, v, gammas)
    y = merge_heads(head_norm(heads, norm, eps))
    if "group_norm.weight" in weights:
        y = y * weights["group_norm.weight"]
    if "group_norm.bias" in weights:
        y = y + weights["group_norm.bias"]
    gate = linear(x, weights, "gate")
    return linear(gate * sigmoid(gate) * y, weights, "output")


# Delta rules


def l2_normalise(x: Array, epsilon: float = 0.0) -> Array:
    """x / sqrt(|x|^2 + epsilon) over the last axis, for the keys and queries of the delta rules. Any shape."""
    y: Array = x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + epsilon)
    return y


def delta_rule(
    q: Array, k: Array, v: Array, beta: Array, state: Array | None = None, scale: float = 1.0
) -> tuple[Array, Array]:
    """Section 2.2 of arXiv:2406.06484: S_t = S_{t-1} - beta_t (S_{t-1} k_t - v_t) k_t^T, o_t = S_t q_t * scale.

    q, k [H, T, D], v [H, T, Dv], beta [H, T], state [H, Dv, D] (zeros unless given) -> out [H, T, Dv], last state.
    Keys and queries are used as given: see `l2_normalise`.
    """
    return gated_delta_rule(q, k, v, np.ones_like(beta), beta, state, scale)


def gated_delta_rule(
    q: Array, k: Array, v: Array, alpha: Array, beta: Array, state: Array | None = None, scale: float = 1.0
) -> tuple[Array, Array]:
    """Equation 10 of arXiv:2412.06464: S_t = S_{t-1} alpha_t (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, o_t = S_t q_t.

    Shapes as in `delta_rule`; alpha [H, T] is the decay itself, in (0, 1], not its logarithm.
    """
    heads, length, width = q.shape
    out = np.zeros((heads, length, v.shape[2]))
    states = np.zeros((heads, v.shape[2], width)) if state is None else state.copy()
    for h in range(heads):
        s = states[h]
        for t in range(length):
            erase = np.eye(width) - beta[h, t] * np.outer(k[h, t], k[h, t])
            s = alpha[h, t] * (s @ erase) + beta[h, t] * np.outer(v[h, t], k[h, t])
            out[h, t] = scale * (s @ q[h, t])
        states[h] = s
    return out, states
