"""Adaptive computation time (arXiv:1603.08983) for one token, as used by arXiv:1807.03819 and arXiv:2112.07658."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oracles.arrays import Array


@dataclass(frozen=True)
class Halting:
    """What one token's halting came to.

    weights [L] sums to 1; remainder R and the update count N (from 1); ponder = N + R; output [d].
    """

    weights: Array
    remainder: float
    updates: int
    ponder: float
    output: Array


def halt(states: Array, probabilities: Array, epsilon: float = 0.01) -> Halting:
    """Sections 2 and 2.1 of arXiv:1603.08983. states h_1..h_L [L, d], probabilities p_1..p_L [L].

    N is the first n with p_1 + ... + p_n >= 1 - epsilon, or L where none is (so the last step always halts).
    R = 1 - (p_1 + ... + p_{N-1}). Weight n is p_n before N, R at N and 0 after; output = sum of weight_n h_n.
    """
    steps = len(probabilities)
    total = 0.0
    updates = steps
    for n in range(1, steps + 1):
        total += float(probabilities[n - 1])
        if total >= 1.0 - epsilon:
            updates = n
            break
    remainder = 1.0 - sum(float(p) for p in probabilities[: updates - 1])
    weights = np.zeros(steps)
    output = np.zeros(states.shape[1])
    for n in range(1, updates + 1):
        weights[n - 1] = float(probabilities[n - 1]) if n < updates else remainder
        output = output + weights[n - 1] * states[n - 1]
    return Halting(weights, remainder, updates, updates + remainder, output)
