"""Copying after a pause (arXiv:1511.06464), and selective copying (arXiv:2312.00752)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from pydantic import Field

from attentune.evaluation.suites.suite import Examples, Recipe, Suite, blank_targets

BLANK, GO = 0, 1


@final
class Copy(Suite):
    """Symbols, a pause, a signal; from the signal on the symbols are to be told again, in order.

        a b c . . . . go . .          asked at go and behind it: a b c

    `selective` scatters the symbols over the pause at random places, so that what to keep must be told from content.

    Published: 10 symbols of an alphabet of 8 and a pause of 100 (of 100 to 500).
    """

    kind: Literal["copy"] = "copy"
    published: ClassVar[Recipe] = Recipe(learning_rate=1e-3)
    symbols: int = Field(default=10, ge=1)
    alphabet: int = Field(default=8, ge=2)
    pause: int = Field(default=100, ge=0)  # blanks between the symbols and the signal
    selective: bool = False

    @property
    def vocab_size(self) -> int:
        return 2 + self.alphabet

    @property
    def length(self) -> int:
        return self.pause + 2 * self.symbols

    def examples(self, count: int, rng: np.random.Generator) -> Examples:
        data = 2 + rng.integers(self.alphabet, size=(count, self.symbols))
        before = self.symbols + self.pause
        ids = np.full((count, self.length), BLANK, dtype=np.int64)
        if self.selective:
            places = np.sort(np.argsort(rng.random((count, before)), axis=1)[:, : self.symbols], axis=1)
        else:
            places = np.broadcast_to(np.arange(self.symbols), (count, self.symbols))
        np.put_along_axis(ids, places, data, axis=1)
        ids[:, before] = GO
        targets = blank_targets(ids)
        targets[:, before:] = data
        return Examples(ids, targets)
