"""Sentences of a text, words of any script, and how much two texts have in common."""

from __future__ import annotations

import re
from collections import Counter

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
_HAN = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")


class UnicodeWords:
    """Words of any script, and each Chinese or Japanese character as a word of its own."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


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
