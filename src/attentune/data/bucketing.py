"""Rows of like length together, so that little of a batch is padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from attentune.errors import DataError


@dataclass(frozen=True, eq=False)
class Buckets:
    """Batches of at most `tokens` tokens, padding included, of rows of these `lengths`.

    Each pass sorts the rows by length, equal ones in a new random order, cuts them into batches and shuffles these: a
    pure function of (seed, pass), so that resuming needs no state. A row longer than `tokens` is a batch of its own.
    """

    lengths: Int64[np.ndarray, " N"]
    tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.lengths):
            raise DataError("there are no rows to make batches of")
        if self.tokens < 1:
            raise DataError(f"a batch holds at least one token, got tokens={self.tokens}")

    @property
    def per_pass(self) -> int:
        """Batches of a pass: the same for all of them, since the sorted lengths are."""
        return len(self._edges) - 1

    @property
    def waste(self) -> float:
        """The share of a pass's tokens that are padding."""
        ordered, edges = np.sort(self.lengths), self._edges
        padded = int((ordered[edges[1:] - 1] * np.diff(edges)).sum())
        return 1 - int(self.lengths.sum()) / max(padded, 1)

    def batch(self, step: int) -> Int64[np.ndarray, " rows"]:
        """The rows of batch number `step`, counted over all passes."""
        number, place = divmod(step, self.per_pass)
        return _pass(self, number)[place]

    def passed(self, number: int) -> list[Int64[np.ndarray, " rows"]]:
        """All batches of a pass."""
        random = np.random.default_rng((self.seed, number))
        order = np.lexsort((random.random(len(self.lengths)), self.lengths))
        batches = np.split(order, self._edges[1:-1])
        return [batches[place] for place in random.permutation(len(batches))]

    @property
    def _edges(self) -> Int64[np.ndarray, " batches_and_1"]:
        return _edges(self)


@lru_cache(maxsize=8)
def _edges(buckets: Buckets) -> Int64[np.ndarray, " batches_and_1"]:
    """Where batches of the sorted rows begin, and the end."""
    ordered, edges = np.sort(buckets.lengths), [0]
    for place, length in enumerate(ordered):
        if place > edges[-1] and (place + 1 - edges[-1]) * int(length) > buckets.tokens:
            edges.append(place)
    return np.array([*edges, len(ordered)], dtype=np.int64)


@lru_cache(maxsize=4)
def _pass(buckets: Buckets, number: int) -> list[Int64[np.ndarray, " rows"]]:
    return buckets.passed(number)
