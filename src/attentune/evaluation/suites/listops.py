"""ListOps (Nangia and Bowman, arXiv:1804.06028), at the lengths of the Long Range Arena (arXiv:2011.04006)."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from pydantic import Field, model_validator

from attentune.errors import SpecError
from attentune.evaluation.suites.suite import Examples, Recipe, Suite, blank_targets

PADDING, CLOSE = 0, 15
OPERATORS = ("MIN", "MAX", "MED", "SM")  # tokens 11 to 14; digits are tokens 1 to 10
NESTED = 0.25  # chance that an argument is itself an expression
TRIES = 100_000  # expressions in a row that do not fit the lengths


def value_of(operator: str, arguments: list[int]) -> int:
    """Smallest, largest, median (rounded down) or sum modulo 10 of digits."""
    if operator == "MIN":
        return min(arguments)
    if operator == "MAX":
        return max(arguments)
    if operator == "SM":
        return sum(arguments) % 10
    ordered, middle = sorted(arguments), len(arguments) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


@final
class ListOps(Suite):
    """The value of a nested expression over digits, told at its last token.

        [MAX 4 [MIN 2 3 ] 1 [SM 5 8 ] ]            asked at the last bracket: 4

    An expression takes 2 to `arguments` arguments; each is a digit or, with chance 1/4 above the largest depth, again
    an expression. Operators, numbers of arguments and digits are drawn uniformly; expressions whose length is not
    strictly between the bounds are drawn anew.

    Published (Long Range Arena): depth 10, 10 arguments, 500 to 2,000 tokens, 96,000 examples. Nangia and Bowman:
    `listops(depth=20, arguments=5, shortest=2, longest=100)`.
    """

    kind: Literal["listops"] = "listops"
    published: ClassVar[Recipe] = Recipe(
        examples=96_000, test_examples=2_000, batch=32, epochs=2, learning_rate=1e-3, feed_forward="gelu"
    )
    depth: int = Field(default=10, ge=2)
    arguments: int = Field(default=10, ge=2)
    shortest: int = Field(default=500, ge=0)  # tokens, exclusive
    longest: int = Field(default=2000, ge=5)  # tokens, exclusive

    @model_validator(mode="after")
    def _bounds(self) -> ListOps:
        if self.shortest + 1 >= self.longest:
            raise ValueError(f"no length is between shortest={self.shortest} and longest={self.longest}, exclusive")
        return self

    @property
    def vocab_size(self) -> int:
        return 16

    @property
    def length(self) -> int:
        return self.longest - 1

    def examples(self, count: int, rng: np.random.Generator) -> Examples:
        draws = _Draws(rng)
        rows: list[list[int]] = []
        values: list[int] = []
        tries = 0
        while len(rows) < count:
            tokens: list[int] = []
            value = self._expression(1, tokens, draws)
            tries += 1
            if value is not None and len(tokens) > self.shortest:
                rows.append(tokens)
                values.append(value)
                tries = 0
            elif tries == TRIES:
                raise SpecError(f"{self}: none of {TRIES:,} expressions had a length between its bounds; widen them")
        ids = np.full((count, self.length), PADDING, dtype=np.int16)  # 96,000 rows of 2,000 tokens are to fit in memory
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
        lengths = np.array([len(tokens) for tokens in rows], dtype=np.int64)
        targets = blank_targets(ids)
        targets[np.arange(count), lengths - 1] = 1 + np.array(values)
        return Examples(ids, targets, lengths)

    def _expression(self, depth: int, tokens: list[int], draws: _Draws) -> int | None:
        """Writes an expression behind `tokens`; its value, or None once it is too long."""
        operator = draws.below(len(OPERATORS))
        tokens.append(11 + operator)
        arguments = []
        for _ in range(2 + draws.below(self.arguments - 1)):
            if depth + 1 < self.depth and draws.chance(NESTED):
                value = self._expression(depth + 1, tokens, draws)
                if value is None:
                    return None
            else:
                value = draws.below(10)
                tokens.append(1 + value)
            arguments.append(value)
            if len(tokens) >= self.longest - depth:  # as many brackets are still to close
                return None
        tokens.append(CLOSE)
        return value_of(OPERATORS[operator], arguments)


class _Draws:
    """Uniform numbers from a block that is refilled: one call of numpy for each would cost more than the rest."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def _next(self) -> float:
        if not self._block:
            self._block = self._rng.random(65_536).tolist()
        return self._block.pop()

    def below(self, bound: int) -> int:
        return int(self._next() * bound)

    def chance(self, share: float) -> bool:
        return self._next() < share
