"""Words and sentences of a text, and what of a question stands in it: marks of the tokens that are read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

Array = np.ndarray[Any, np.dtype[Any]]

_HAN = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s+|[。！？]\s*|\n+")
COMMON = 0.05  # share of the contexts that hold a word which tells little
NEARNESS = (0.25, 0.5, 1.0)  # where the classes of sentences begin, as shares of the best one's overlap
OUTSIDE, FIRST_OF_CONTEXT = 0, 1
KINDS = 1 + 3 * (len(NEARNESS) + 1)
"""Marks: 0 for what is no context, then 1 + class of the sentence x 3 + class of the word."""


class Word(NamedTuple):
    """A word without capital letters, and its characters `start` to `end` (not included)."""

    form: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """Runs of letters and digits of any script; of Chinese and Japanese each character."""
    return [Word(found[0].casefold(), *found.span()) for found in _WORD.finditer(text)]


def sentence_ends(text: str) -> list[int]:
    """Where each sentence ends, white space behind it included; the last at the end of the text."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text) if found.end() < len(text)]
    return [*ends, len(text)]


@dataclass(frozen=True)
class Frequencies:
    """In how many of `texts` training texts each word stands; words that are not named stand in one at most."""

    texts: int
    counts: Mapping[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Frequencies:
        """Counts `texts`, each of which may come several times and counts once."""
        known = set(texts)
        counts = Counter(form for text in known for form in {word.form for word in words_of(text)})
        return cls(len(known), {form: count for form, count in sorted(counts.items()) if count > 1})

    def weight(self, form: str) -> float:
        """log(1 + texts / (1 + those that hold it)): how much a word tells."""
        return log(1 + self.texts / (1 + self.counts.get(form, 1)))

    def is_common(self, form: str) -> bool:
        """Whether so many texts hold it that it tells little."""
        return self.counts.get(form, 1) > max(COMMON * self.texts, 1)


def marks_of(
    context: str, question: str, places: Int[np.ndarray, "T 2"], frequencies: Frequencies
) -> Int[np.ndarray, " T"]:
    """What is known of each token of a context, before anything is learned.

    Of its word: that the question has it not, has it, or has it and it is a rare one (the exact match of
    arXiv:1704.00051). Of its sentence: how much of the question stands in it, rare words for more (as in the features
    of arXiv:1606.05250), compared with the best sentence.
    """
    asked = {word.form for word in words_of(question)}
    held = [word for word in words_of(context) if word.form in asked]
    kind = np.zeros(len(context) + 1, dtype=np.int64)  # of each character
    for word in held:
        kind[word.start : word.end] = 1 if frequencies.is_common(word.form) else 2
    kind += 3 * _nearness(held, sentence_ends(context), len(context) + 1, frequencies)
    return np.asarray(FIRST_OF_CONTEXT + kind[places[:, 0]], dtype=np.int64)


def _nearness(
    held: Sequence[Word], ends: Sequence[int], length: int, frequencies: Frequencies
) -> Int[np.ndarray, " L"]:
    """The class of the sentence that each character stands in: 0 for the least overlap, then as in NEARNESS."""
    of_word = np.searchsorted(ends, [word.start for word in held], side="right")
    of_sentence: dict[int, set[str]] = defaultdict(set)
    for word, sentence in zip(held, of_word.tolist(), strict=True):
        of_sentence[sentence].add(word.form)
    overlap = np.zeros(len(ends))
    for sentence, forms in of_sentence.items():
        overlap[sentence] = sum(frequencies.weight(form) for form in sorted(forms))
    best = overlap.max()
    classes = np.searchsorted(NEARNESS, overlap / best + 1e-9, side="right") if best > 0 else np.zeros(len(ends))
    of_character = np.minimum(np.searchsorted(ends, np.arange(length), side="right"), len(ends) - 1)
    return np.asarray(classes[of_character], dtype=np.int64)
