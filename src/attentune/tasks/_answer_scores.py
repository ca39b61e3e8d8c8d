"""Figures of answers that stand in a text, as the official scripts of SQuAD compute them."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from jaxtyping import Float

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.tasks.task import Prediction, Scores

SHOWN = 20  # mistakes
KINDS_SHOWN = 12  # first words of questions
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Without capital letters, marks, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def exact(said: str, right: str) -> float:
    """1 where both are the same after `normalised`, else 0."""
    return float(normalised(said) == normalised(right))


def f1(said: str, right: str) -> float:
    """The harmonic mean of the precision and recall of words; without words on one side 1 if on both, else 0."""
    ours, theirs = normalised(said).split(), normalised(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = (Counter(ours) & Counter(theirs)).total()
    return 2 * same / (len(ours) + len(theirs))


def best_of(measure: Callable[[str, str], float], said: str, right: Sequence[str]) -> float:
    """The measure against the most like of the right answers; where there is none, nothing is right to say.

    As the script of version 2, answers that hold nothing but articles and marks do not count beside others.
    """
    known = [text for text in right if normalised(text)] or [""]
    return max(measure(said, text) for text in known)


def score_answers(
    predictions: Sequence[Prediction],
    right: Sequence[Sequence[str]],
    questions: Sequence[str],
    records: Sequence[Record],
) -> Scores:
    """EM and F1 from 0 to 100 (arXiv:1606.05250); where some questions have no answer, of each sort apart too.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError("there are no records to be scored")
    said = [str(one.value) for one in predictions]
    exacts = [best_of(exact, one, texts) for one, texts in zip(said, right, strict=True)]
    ones = [best_of(f1, one, texts) for one, texts in zip(said, right, strict=True)]
    values = {"exact": 100 * fmean(exacts), "f1": 100 * fmean(ones)}
    with_answer = [place for place, texts in enumerate(right) if texts]
    if len(with_answer) < len(records):
        without = [place for place, texts in enumerate(right) if not texts]
        if with_answer:
            values["answerable_exact"] = 100 * fmean(exacts[place] for place in with_answer)
            values["answerable_f1"] = 100 * fmean(ones[place] for place in with_answer)
        values["unanswerable"] = 100 * fmean(ones[place] for place in without)
    wrong = [place for place in range(len(records)) if ones[place] == 0.0]
    wrong.sort(key=lambda place: (-float(predictions[place].fields.get("score") or 0.0), place))
    mistakes = [
        {
            "where": records[place].where,
            "text": questions[place],
            "expected": list(dict.fromkeys(right[place])),
            "predicted": said[place],
            "probability": round(float(predictions[place].fields.get("score") or 0.0), 4),
        }
        for place in wrong[:SHOWN]
    ]
    text = _by_first_word(questions, exacts, ones)
    return Scores(values, "f1", text=text, details={"mistakes": mistakes}, best=100)


def _by_first_word(questions: Sequence[str], exacts: Sequence[float], ones: Sequence[float]) -> str:
    """The figures of the commonest kinds of questions, and of the rest together."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        groups[(question.lower().split() or [""])[0]].append(place)
    often = sorted(groups, key=lambda word: (-len(groups[word]), word))[:KINDS_SHOWN]
    rest = [place for word, places in groups.items() if word not in often for place in places]
    rows = [(word, groups[word]) for word in often] + ([("others", rest)] if rest else [])
    lines = [f"{'first word':<14} {'questions':>9} {'exact':>7} {'f1':>7}"]
    for word, places in rows:
        figures = (100 * fmean(each[place] for place in places) for each in (exacts, ones))
        lines.append(f"{word[:14]:<14} {len(places):>9,} {' '.join(f'{figure:>7.2f}' for figure in figures)}")
    return "\n".join(lines)


def best_threshold(
    margins: Float[np.ndarray, " N"], answered: Float[np.ndarray, " N"], silent: Float[np.ndarray, " N"]
) -> float:
    """The threshold with the greatest mean F1 where answers are given whose margin is above it (arXiv:1806.03822).

    `answered` is the F1 of each record if it is answered, `silent` if it is not. Half-way between two margins; of
    several best ones the least.
    """
    order = np.argsort(margins, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((silent - answered)[order])])  # of leaving the first n unanswered
    ranked = margins[order]
    apart = np.concatenate([[True], np.diff(ranked) > 0, [True]])  # equal margins fall on one side together
    count = int(np.argmax(np.where(apart, gains, -np.inf)))
    if count == 0:
        return float(ranked[0] - 1)
    return float(ranked[-1] + 1) if count == len(ranked) else float((ranked[count - 1] + ranked[count]) / 2)
