"""Sentences of a text, words of any script, and how much two texts have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
_HAN = r"\u3040-\u30ff\u3400-\u9fff"
_NO_SPACES = re.compile(rf"[{_HAN}]")
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")


class UnicodeWords:
    """Words of any script, and each Chinese or Japanese character as a word of its own."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def mostly_of_other_letters(texts: Iterable[str]) -> bool:
    """Whether more than half of the letters of more than half of the texts are others than a to z."""
    counts = []
    for text in texts:
        letters = [letter for letter in text if letter.isalpha()]
        counts.append(2 * sum(map(str.isascii, letters)) < len(letters))
    return 2 * sum(counts) > len(counts)


def mostly_without_spaces(texts: Iterable[str]) -> bool:
    """The same of letters of Chinese and Japanese, which have no spaces between words."""
    counts = [2 * len(_NO_SPACES.findall(text)) > sum(map(str.isalpha, text)) for text in texts]
    return 2 * sum(counts) > len(counts)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text: up to marks that end one, with a space behind them where the script has spaces."""
    return [part for part in (part.strip() for part in _SENTENCE.split(text.strip())) if part]


def words_of(text: str) -> Counter[str]:
    """How often each word stands in a text."""
    return Counter(UnicodeWords().tokenize(text))


def overlap(one: Counter[str], other: Counter[str]) -> float:
    """ROUGE-1 F1 (Lin, 2004) from 0 to 1: 2 p r / (p + r), p and r the shares of either's words that both have."""
    both = (one & other).total()
    return 2 * both / (one.total() + other.total()) if both else 0.0
