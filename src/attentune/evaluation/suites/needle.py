"""A fact in a long text (the needle in a haystack, in the form of RULER, arXiv:2404.06654)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, field_validator, model_validator

from attentune.data.tokenizers import Tokenizer
from attentune.errors import SpecError
from attentune.evaluation.suites.suite import Count, Examples, Recipe
from attentune.spec.value import Frozen

KEYS = re.findall(
    r"\w+",
    "amber anchor basil beacon canyon cedar cobalt comet coral ember falcon fjord garnet glacier harbor hazel indigo "
    "island jasper kestrel lagoon lantern magnet maple meadow nectar nutmeg oasis onyx orchid osprey pebble pepper "
    "quartz quiver raven saffron spruce summit thistle tundra valley velvet walnut willow yarrow zephyr zircon",
)


@final
class Needle(Frozen):
    """One sentence that states a number stands somewhere in a real text; a question at the end asks for the number.

        text ... The secret number of raven is 4821. ... text  What is the secret number of raven? It is  [4821]

    `lengths` (tokens of the whole row, question included) and `depths` (where the fact stands, 0 at the beginning, 1
    just before the question) span the grid that is scored; an answer counts when all of its tokens are right. The
    fact goes in front of a token that begins with white space where the text has any nearby. Models that are trained
    on it see every length, at random depths.
    """

    kind: Literal["needle"] = "needle"
    lengths: tuple[Count, ...] = ()  # empty: a quarter, a half and all of the context; (64, 128, 256) to train
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    digits: int = Field(default=4, ge=1, le=12)
    fact: str = " The secret number of {key} is {number}."
    question: str = " What is the secret number of {key}? It is"
    answer: str = " {number}"

    @field_validator("lengths", "depths", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _can_be_asked(self) -> Needle:
        if not self.depths or not all(0 <= depth <= 1 for depth in self.depths):
            raise ValueError(f"depths must be between 0 and 1, got {self.depths}")
        if "{number}" not in self.fact or "{number}" not in self.answer:
            raise ValueError("fact and answer must hold {number}, which stands for the number to find")
        if "{number}" in self.question:
            raise ValueError("question must not hold {number}: it would tell the answer")
        return self

    def __str__(self) -> str:
        """The text form: the name, and the fields that are not as published."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}
        changed = {name: held for name, held in fields.items() if held != type(self).model_fields[name].default}
        return f"needle({', '.join(f'{n}={h!r}' for n, h in changed.items())})" if changed else "needle"

    @property
    def alphabet(self) -> str:
        """Every character that facts, questions and answers are written with."""
        return "".join(sorted({*self.fact, *self.question, *self.answer, *"".join(KEYS), *"0123456789"} - {*"{}"}))

    def bind(self, training: str, test: str, tokenizer: Tokenizer, *, context: int, source: str) -> NeedleTask:
        """The task of finding needles in the text `test`, for a model of this tokenizer and context.

        Examples to train on are made from the text `training`.

        Raises:
            DataError: the tokenizer does not know a character of the needles or the text.
            SpecError: the text or a length is too short.
        """
        begins = np.array([tokenizer.decode([token])[:1].isspace() for token in range(tokenizer.vocab_size)])
        hay, test_hay = (Hay(ids, begins[ids]) for ids in map(tokenizer.encode, (training, test)))
        lengths = self.lengths or tuple(sorted({max(1, context // 4), max(1, context // 2), context}))
        task = NeedleTask(self.replace(lengths=lengths), source, tokenizer, hay, test_hay)
        longest = max(sum(map(len, task.needle(key, 10**self.digits - 1))) for key in KEYS)
        if (shortest := min(lengths)) <= longest:
            raise SpecError(
                f"a row of {shortest} tokens has no room for text beside the needle, its question and its answer, "
                f"which take up to {longest}: name longer rows, such as --suite 'needle(lengths=({2 * longest},))'"
            )
        if (held := min(len(hay.ids), len(test_hay.ids))) < max(lengths):
            part = "" if training == test else ", or the tenth of it that is held out,"
            raise SpecError(f"{source}{part} has {held} tokens, a row of {max(lengths)} needs as many; give more text")
        return task


@dataclass(frozen=True, eq=False)
class Hay:
    """The tokens of a text; `breaks` is True where a word begins, so that a needle may stand before it."""

    ids: Int[np.ndarray, " N"]
    breaks: Bool[np.ndarray, " N"]


@final
@dataclass(frozen=True, eq=False)
class NeedleTask:
    """Needles in a text: in `hay` to train on, in `test_hay` to be found."""

    needles: Needle
    source: str
    tokenizer: Tokenizer
    hay: Hay
    test_hay: Hay
    recipe: ClassVar[Recipe] = Recipe(batch=32, examples=20_000, test_examples=300, learning_rate=2e-3)
    counts: ClassVar[Literal["answers", "rows"]] = "rows"
    reads_answers: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return str(self.needles)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def length(self) -> int:
        return max(self.needles.lengths)

    def identity(self) -> dict[str, Any]:
        text = hashlib.sha256()
        for hay in (self.hay, self.test_hay):
            text.update(hay.ids.astype("<i4").tobytes())
        return {**self.needles.model_dump(mode="json"), "text": text.hexdigest(), "vocabulary": self.vocab_size}

    def training(self, count: int, rng: np.random.Generator) -> Examples:
        lengths, depths = rng.choice(self.needles.lengths, size=count).tolist(), rng.random(count).tolist()
        return self._examples(list(zip(lengths, depths, strict=True)), self.hay, rng)

    def test(self, count: int, rng: np.random.Generator) -> Examples:
        """As many rows in each cell of the grid, `count` in all or a few more, from short to long."""
        cells = [(length, depth) for length in sorted(self.needles.lengths) for depth in self.needles.depths]
        each = -(-count // len(cells))
        places = [cell for cell in cells for _ in range(each)]
        found = self._examples(places, self.test_hay, rng)
        groups = tuple(f"length {length}, depth {depth:g}" for length, depth in places)
        return Examples(found.ids, found.targets, found.lengths, groups)

    def needle(self, key: str, number: int) -> tuple[list[int], list[int], list[int]]:
        """The tokens of fact, question and answer."""
        texts = (self.needles.fact, self.needles.question, self.needles.answer)
        written = [text.replace("{key}", key).replace("{number}", str(number)) for text in texts]
        fact, question, answer = ([int(i) for i in self.tokenizer.encode(text)] for text in written)
        return fact, question, answer

    def _examples(self, places: list[tuple[int, float]], hay: Hay, rng: np.random.Generator) -> Examples:
        ids = np.zeros((len(places), self.length), dtype=np.int64)
        targets = np.full_like(ids, -100)
        for row, (length, depth) in enumerate(places):
            key = KEYS[rng.integers(len(KEYS))]
            low = 10 ** (self.needles.digits - 1) if self.needles.digits > 1 else 0
            fact, question, answer = self.needle(key, int(rng.integers(low, 10**self.needles.digits)))
            before = _hidden(fact, hay, length - len(fact) - len(question) - len(answer) + 1, depth, rng)
            whole = np.concatenate([before, question, answer])
            ids[row, :length] = whole[:-1]
            targets[row, length - len(answer) : length] = answer
        return Examples(ids, targets, np.array([length for length, _ in places], dtype=np.int64))


def _hidden(fact: list[int], hay: Hay, size: int, depth: float, rng: np.random.Generator) -> np.ndarray:
    """`size` consecutive tokens of the text with the fact among them, near `depth`."""
    start = int(rng.integers(len(hay.ids) - size + 1))
    text = hay.ids[start : start + size]
    place = round(depth * size)
    possible = np.flatnonzero(hay.breaks[start : start + size])
    if 0 < place < size and len(possible):
        nearest = int(possible[np.abs(possible - place).argmin()])
        place = nearest if abs(nearest - place) <= size / 20 else place
    return np.concatenate([text[:place], fact, text[place:]])
