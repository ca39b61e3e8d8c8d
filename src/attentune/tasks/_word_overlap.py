"""Answers by the overlap of words alone: what reading comprehension is measured against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log

from attentune.tasks._answer_words import Frequencies, Word, sentence_ends, words_of

LONGEST = 6  # words of an answer


def sliding_window(context: str, question: str, frequencies: Frequencies) -> tuple[int, int]:
    """Characters `start` to `end` of a guess; equal where the context has no words.

    Candidates are runs of words of one sentence without marks between them that are neither common nor in the question,
    those of the sentences that hold most of the question (arXiv:1606.05250, whose candidates are constituents of a
    parse). Among them decides the best window of the text (Richardson et al., 2013): with S the words of the question
    and the candidate, the greatest sum over windows of |S| words of log(1 + 1 / C(w)) for each w in S, where C(w)
    counts w in the context; the window holds the candidate.
    """
    held = words_of(context)
    if not held:
        return 0, 0
    asked = {word.form for word in words_of(question)}
    counts = Counter(word.form for word in held)
    weights = [log(1 + 1 / counts[word.form]) for word in held]
    found: list[tuple[float, float, int, int]] = []
    for first, last in _sentences(context, held):
        overlap = sum(log(1 + 1 / counts[form]) for form in asked & {word.form for word in held[first:last]})
        for start, end in _runs(context, held, first, last, asked, frequencies):
            inside = asked | {word.form for word in held[start:end]}
            near = [weight if word.form in inside else 0.0 for word, weight in zip(held, weights, strict=True)]
            size = max(len(inside), end - start)
            places = range(max(0, end - size), start + 1)
            found.append((overlap, max(sum(near[place : place + size]) for place in places), start, end))
    if not found:
        return held[0].start, held[0].end
    *_, start, end = max(found, key=lambda one: (one[0], one[1], -one[2]))
    return held[start].start, held[end - 1].end


def _sentences(context: str, held: Sequence[Word]) -> list[tuple[int, int]]:
    """The words of each sentence: the first, and the one after the last."""
    found, first = [], 0
    for end in sentence_ends(context):
        last = first
        while last < len(held) and held[last].start < end:
            last += 1
        if last > first:
            found.append((first, last))
        first = last
    return found


def _runs(
    context: str, held: Sequence[Word], first: int, last: int, asked: set[str], frequencies: Frequencies
) -> list[tuple[int, int]]:
    """Neighbouring words that may be an answer."""
    found: list[tuple[int, int]] = []
    for place in range(first, last):
        word = held[place]
        if word.form in asked or frequencies.is_common(word.form):
            continue
        goes_on = bool(found) and found[-1][1] == place and place - found[-1][0] < LONGEST
        if goes_on and not context[held[place - 1].end : word.start].strip():
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found
