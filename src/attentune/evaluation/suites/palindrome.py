"""Telling a sequence backwards (as in arXiv:2510.26692)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from pydantic import Field

from attentune.evaluation.suites.suite import Examples, Recipe, Suite, blank_targets

TURN = 0


@final
class Palindrome(Suite):
    """Random symbols and a sign to turn; from there on the symbols are to be told in reverse, each then being read.

        a b c turn c b                asked from turn on: c b a

    Published: rows from 256 tokens up, two layers. The default is the shortest of them, with an alphabet of 62.
    """

    kind: Literal["palindrome"] = "palindrome"
    published: ClassVar[Recipe] = Recipe(learning_rate=1e-3)
    reads_answers: ClassVar[bool] = True
    symbols: int = Field(default=128, ge=1)
    alphabet: int = Field(default=62, ge=2)

    @property
    def vocab_size(self) -> int:
        return 1 + self.alphabet

    @property
    def length(self) -> int:
        return 2 * self.symbols

    def examples(self, count: int, rng: np.random.Generator) -> Examples:
        data = 1 + rng.integers(self.alphabet, size=(count, self.symbols))
        back = data[:, ::-1]
        turn = np.full((count, 1), TURN, dtype=np.int64)
        ids = np.concatenate([data, turn, back[:, :-1]], axis=1)
        targets = blank_targets(ids)
        targets[:, self.symbols :] = back
        return Examples(ids, targets)
