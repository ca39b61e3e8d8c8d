"""Multi-query associative recall (Zoology, arXiv:2312.04927)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from pydantic import Field, model_validator

from attentune.evaluation.suites.suite import Examples, Recipe, Suite, blank_targets


@final
class Recall(Suite):
    """Pairs of a key and its value come first; where a key comes back, its value is to be told.

        k1 v1 k2 v2 ... kn vn  .  .  k2  .  .  .  k1  .        asked at k2: v2, at k1: v1

    Keys are tokens 1 .. vocabulary/2 - 1, values the upper half of the vocabulary, each at most once in a row; random
    tokens (0 without `noise`) fill the rest. Behind the pairs, each key comes back once, at an even distance 2g from
    their end: the gaps g are drawn without replacement with probability proportional to (g + 1)^(power - 1), as
    repeated words in a text.

    Published: length 64, 4 pairs, power .01, filled with random tokens. The vocabulary here is 256 instead of 8,192,
    with 10,000 instead of 100,000 examples, so that a CPU learns it in a minute.
    """

    kind: Literal["recall"] = "recall"
    published: ClassVar[Recipe] = Recipe()
    pairs: int = Field(default=4, ge=1)
    row: int = Field(default=64, ge=4)  # tokens
    vocabulary: int = Field(default=256, ge=8)
    power: float = Field(default=0.01, gt=0)  # 1: all gaps alike
    noise: bool = True  # fill with random tokens, not with 0

    @model_validator(mode="after")
    def _fits(self) -> Recall:
        if self.row % 2:
            raise ValueError(f"row must be even, got {self.row}")
        if 4 * self.pairs > self.row:
            raise ValueError(f"{self.pairs} pairs and their keys need a row of {4 * self.pairs} tokens, got {self.row}")
        if self.pairs > self.vocabulary // 2 - 1:
            raise ValueError(f"a vocabulary of {self.vocabulary} has fewer than pairs={self.pairs} keys")
        return self

    @property
    def vocab_size(self) -> int:
        return self.vocabulary

    @property
    def length(self) -> int:
        return self.row

    def examples(self, count: int, rng: np.random.Generator) -> Examples:
        half, front = self.vocabulary // 2, 2 * self.pairs
        keys = 1 + _distinct(count, half - 1, self.pairs, rng)
        values = half + _distinct(count, self.vocabulary - half, self.pairs, rng)
        space = (self.row - front) // 2
        log_share = (self.power - 1) * np.log(np.arange(1, space + 1))
        # The largest of log p + Gumbel noise are draws without replacement (arXiv:1903.06059).
        order = np.argsort(-(log_share + rng.gumbel(size=(count, space))), axis=1)
        places = front + 2 * order[:, : self.pairs]

        ids = np.zeros((count, self.row), dtype=np.int64)
        ids[:, 0:front:2], ids[:, 1:front:2] = keys, values
        np.put_along_axis(ids, places, keys, axis=1)
        targets = blank_targets(ids)
        np.put_along_axis(targets, places, values, axis=1)
        if self.noise:
            ids = np.where(ids == 0, rng.integers(self.vocabulary, size=ids.shape), ids)
        return Examples(ids, targets)


def _distinct(count: int, size: int, chosen: int, rng: np.random.Generator) -> np.ndarray:
    """`count` rows of `chosen` different numbers below `size`, in random order."""
    return np.argsort(rng.random((count, size)), axis=1)[:, :chosen]
