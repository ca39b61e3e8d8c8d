"""Which tokens of a text are hidden from a model that learns to restore them (BERT, arXiv:1810.04805, appendix A.1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from attentune.data.batches import IGNORED

HIDDEN, KEPT = 0.8, 0.1  # of the chosen tokens: shown as the mask, shown as they are; the others as any token


def masked(
    ids: Int[np.ndarray, " T"],
    random: np.random.Generator,
    *,
    share: float,
    mask: int,
    free: Bool[np.ndarray, " T"],
    drawn_from: Int[np.ndarray, " N"],
    words: Int[np.ndarray, " T"] | None = None,
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"]]:
    """What the model reads, and what it is to restore (`IGNORED` elsewhere).

    A `share` of the tokens is chosen, rounded, and at least one: of these 80 % become `mask`, 10 % any token of
    `drawn_from`, 10 % stay. Only `free` tokens are chosen. With `words`, the number of each token's word, all tokens of
    a word are chosen or none, as long as there is room for it; a row that is one longer word has its first tokens
    chosen.
    """
    places = np.flatnonzero(free)
    count = max(1, round(share * len(places)))
    chosen = random.permutation(places)[:count] if words is None else _of_words(places, words, count, random)
    shown, targets = ids.copy(), np.full(len(ids), IGNORED, dtype=np.int64)
    targets[chosen] = ids[chosen]
    lot = random.random(len(chosen))
    any_token = drawn_from[random.integers(len(drawn_from), size=len(chosen))]
    shown[chosen] = np.where(lot < HIDDEN, mask, np.where(lot < HIDDEN + KEPT, ids[chosen], any_token))
    return shown, targets


def _of_words(
    places: Int[np.ndarray, " P"], words: Int[np.ndarray, " T"], count: int, random: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """Whole words in a random order, each if it still fits into `count` tokens."""
    numbers = words[places]
    chosen: list[int] = []
    if not len(places):
        return places
    order = random.permutation(np.unique(numbers))
    for word in order.tolist():
        own = places[numbers == word]
        if len(chosen) + len(own) <= count:
            chosen += own.tolist()
        if len(chosen) == count:
            break
    if not chosen:
        chosen = places[numbers == order[0]][:count].tolist()
    return np.array(chosen, dtype=np.int64)
