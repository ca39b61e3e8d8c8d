"""Adaptive attention span (arXiv:1905.07799): a learned ramp over distance multiplies exp(score), then renormalises."""

from __future__ import annotations

import math

import numpy as np

from oracles.arrays import Array


def soft_mask(distance: float, span: float, ramp: float) -> float:
    """Section 2.2: m_z(x) = min(max((R + z - x) / R, 0), 1), for distance x, span z and ramp R."""
    return min(max((ramp + span - distance) / ramp, 0.0), 1.0)


def adaptive_span_attention(
    q: Array,
    k: Array,
    v: Array,
    spans: Array,
    ramp: float,
    max_span: int | None = None,
    include_self: bool = True,
    distance_offset: int = 0,
    positions: Array | None = None,
    scale: float | None = None,
    epsilon: float = 0.0,
) -> Array:
    """Section 2.2: a_tr = m_z(t - r) exp(s_tr) / sum_q m_z(t - q) exp(s_tq), causal, one span a head.

    q [H, Tq, D], k [H, Tk, D], v [H, Tk, Dv], spans [H] -> [H, Tq, Dv]. Query i stands at key Tk - Tq + i, and
    x = t - r is 0 at the query's own token. Keys with x > max_span are never seen; include_self=False drops x = 0, as
    in the paper's sum, which runs from t - S to t - 1. The mask reads x - distance_offset.
    positions [>= Tk, D] or [H, >= Tk, D] holds p_x, so that s = q.(k + p_x), times scale (1/sqrt(D) unless given).
    epsilon is added to the masked softmax's sum before the division. A row with no weight gives zeros.
    """
    heads, queries, width = q.shape
    keys = k.shape[1]
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    out = np.zeros((heads, queries, v.shape[2]))
    for h in range(heads):
        for i in range(queries):
            here = keys - queries + i
            seen = [r for r in range(here + 1) if r < here or include_self]
            if max_span is not None:
                seen = [r for r in seen if here - r <= max_span]
            scores = []
            for r in seen:
                key = k[h, r]
                if positions is not None:
                    key = key + (positions[here - r] if positions.ndim == 2 else positions[h, here - r])
                scores.append(factor * float(q[h, i] @ key))
            top = max(scores, default=0.0)
            plain = [math.exp(score - top) for score in scores]
            masks = [soft_mask(here - r - distance_offset, float(spans[h]), ramp) for r in seen]
            masked = [m * p / sum(plain) for m, p in zip(masks, plain, strict=True)]
            total = sum(masked) + epsilon
            if total > 0.0:
                for r, weight in zip(seen, masked, strict=True):
                    out[h, i] += weight / total * v[h, r]
    return out


def span_penalty(spans: Array, coefficient: float) -> float:
    """Section 2.2, the added loss: lambda / M times the sum of all M heads' spans. spans, any shape -> a number."""
    return coefficient * float(spans.sum()) / spans.size
