"""Tags of the form IOB2: which may follow which, the best legal sequence, and the entities that a sequence names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Entity(NamedTuple):
    """Tokens `start` to `end` (not included) are one of `kind`."""

    kind: str
    start: int
    end: int


def are_spans(tags: Sequence[str]) -> bool:
    """Whether these are tags of entities (`O`, `B-place`, `I-place`), and not of single words, such as `NOUN`."""
    return all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags) and any(tag != "O" for tag in tags)


def may_follow(before: str | None, tag: str) -> bool:
    """Whether `tag` may come after `before` (None: at the start): I-x goes on with B-x or I-x alone."""
    return tag[:2] != "I-" or (before is not None and before in (f"B-{tag[2:]}", tag))


def transitions(tags: Sequence[str]) -> tuple[Bool[np.ndarray, " C"], Bool[np.ndarray, "C C"]]:
    """Which tags may begin a sequence, and which (columns) may follow which (rows)."""
    first = np.array([may_follow(None, tag) for tag in tags], dtype=bool)
    return first, np.array([[may_follow(before, tag) for tag in tags] for before in tags], dtype=bool)


def best_sequence(
    scores: Float[np.ndarray, "T C"], first: Bool[np.ndarray, " C"], following: Bool[np.ndarray, "C C"]
) -> list[int]:
    """The legal sequence of tags with the greatest sum of scores (Viterbi, 1967). Some tag must always be legal."""
    if not len(scores):
        return []
    forbidden = np.where(following, 0.0, -np.inf)
    total = np.where(first, scores[0], -np.inf)
    came_from = np.zeros(scores.shape, dtype=np.int64)
    for place in range(1, len(scores)):
        ways = total[:, None] + forbidden
        came_from[place] = ways.argmax(0)
        total = ways.max(0) + scores[place]
    chosen = [int(total.argmax())]
    for place in range(len(scores) - 1, 0, -1):
        chosen.append(int(came_from[place, chosen[-1]]))
    return chosen[::-1]


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that a legal sequence names."""
    found: list[Entity] = []
    for place, tag in enumerate(tags):
        if tag.startswith("I-") and found and found[-1].end == place and found[-1].kind == tag[2:]:
            found[-1] = found[-1]._replace(end=place + 1)
        elif tag != "O":
            found.append(Entity(tag[2:], place, place + 1))
    return found


def as_tags(found: Sequence[Entity], length: int) -> list[str]:
    """The tags that name these entities in a sentence of `length` tokens."""
    tags = ["O"] * length
    for one in found:
        tags[one.start : one.end] = [f"B-{one.kind}", *[f"I-{one.kind}"] * (one.end - one.start - 1)]
    return tags


class KnownPhrases:
    """Names the entities that stood in training, the longest first: what needs no model (as in CoNLL-2003).

    A phrase takes the kind that it most often had, if it was an entity in at least half of its occurrences.
    """

    def __init__(self, sentences: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
        kinds: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for tokens, tags in sentences:
            for one in entities(tags):
                kinds[tuple(tokens[one.start : one.end])][one.kind] += 1
        self.longest = max(map(len, kinds), default=0)
        seen: Counter[tuple[str, ...]] = Counter()
        for tokens, _ in sentences:
            for start in range(len(tokens)):
                for end in range(start + 1, min(start + self.longest, len(tokens)) + 1):
                    if (phrase := tuple(tokens[start:end])) in kinds:
                        seen[phrase] += 1
        self.kinds = {
            phrase: counts.most_common(1)[0][0]
            for phrase, counts in kinds.items()
            if 2 * counts.total() >= seen[phrase]
        }

    def tags(self, tokens: Sequence[str]) -> list[str]:
        """The tags of a sentence."""
        found, place = [], 0
        while place < len(tokens):
            lengths = range(min(self.longest, len(tokens) - place), 0, -1)
            length = next((n for n in lengths if tuple(tokens[place : place + n]) in self.kinds), 0)
            if length:
                found.append(Entity(self.kinds[tuple(tokens[place : place + length])], place, place + length))
            place += max(length, 1)
        return as_tags(found, len(tokens))
