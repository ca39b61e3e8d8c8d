"""Figures of rankings and of similarities, and simple ways to rank texts by the words they share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.tasks._answer_words import words_of
from attentune.tasks._extra import needed
from attentune.tasks._tfidf import tf_idf
from attentune.tasks.task import Array, Prediction, Scores

DEPTH = 1000  # places of a ranking that are kept: what stands behind counts as not found
CUTS = (1, 5, 10)
SHOWN = 20  # mistakes
QUESTIONS = 256  # held against the collection at once


@dataclass(frozen=True)
class Ranked(Prediction):
    """A prediction with its whole ranking: the numbers of the texts of a collection, the best first."""

    order: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64), compare=False)


def ranked(scores: Float[np.ndarray, " N"], texts: Sequence[str], top: int) -> Ranked:
    """The texts by their scores; of equal ones the earlier first."""
    count = min(DEPTH, len(scores))
    least = -np.partition(-scores, count - 1)[count - 1]
    chosen = np.concatenate([np.flatnonzero(scores > least), np.flatnonzero(scores == least)])[:count]
    order = chosen[np.lexsort((chosen, -scores[chosen]))]
    found = [{"text": texts[place], "score": round(float(scores[place]), 6)} for place in order[:top]]
    return Ranked(found[0]["text"], {"score": found[0]["score"], "found": found}, order=order)


def score_rankings(
    predictions: Sequence[Prediction],
    right: Sequence[Collection[int]],
    records: Sequence[Record],
    *,
    texts: Sequence[str],
    asked: Sequence[str],
) -> Scores:
    """The mean of 1 / rank of the right text (MRR), and the share of questions that have it among the first k.

    `right` holds the numbers in the collection of the texts that answer a question, the first of which counts; where
    there is none it is not found, and the report says so.

    Raises:
        DataError: there are no records.
    """
    if not records:
        raise DataError("there are no records to be scored")
    ranks = np.array([_rank(one, number) for one, number in zip(predictions, right, strict=True)])
    values = {"mrr": float((1 / ranks).mean())}
    values |= {f"recall_at_{cut}": float((ranks <= cut).mean()) for cut in CUTS}
    absent = sum(not numbers for numbers in right)
    found = ranks[np.isfinite(ranks)]
    text = f"{len(records):,} questions, {len(texts):,} texts to find"
    text += f"; of {absent:,} questions the right text is not among them" if absent else ""
    text += f"\nmedian rank of those found {np.median(found):.0f}" if len(found) else ""
    wrong = [place for place in range(len(records)) if ranks[place] > 1 and right[place]]
    wrong.sort(key=lambda place: (-float(predictions[place].fields["score"]), place))
    mistakes = [
        {
            "where": records[place].where,
            "text": asked[place],
            "expected": _short(texts[min(right[place])]),
            "predicted": _short(str(predictions[place].value)),
            "rank": int(ranks[place]) if np.isfinite(ranks[place]) else None,
        }
        for place in wrong[:SHOWN]
    ]
    return Scores(values, "mrr", text=text, details={"mistakes": mistakes})


def _rank(prediction: Prediction, numbers: Collection[int]) -> float:
    """The place of the first of these texts in a ranking, from 1; infinite where none is in it."""
    assert isinstance(prediction, Ranked)
    places = np.flatnonzero(np.isin(prediction.order, list(numbers)))
    return float(places[0] + 1) if len(places) else float("inf")


def _short(text: str, most: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def score_similarities(
    predictions: Sequence[Prediction], labels: Sequence[float], records: Sequence[Record], *, graded: bool
) -> Scores:
    """Of grades the rank correlation of Spearman (and Pearson's); of 0 and 1 the accuracy and the area under the curve.

    The area is left out where all labels are the same; correlations with a constant are 0.

    Raises:
        DataError: there are no records.
        MissingExtraError: scikit-learn is not installed.
    """
    if not records:
        raise DataError("there are no records to be scored")
    said, truth = np.array([float(one.value) for one in predictions]), np.array(labels)
    if graded:
        stats = needed("scipy.stats", "scikit-learn", "scoring similarities")
        varies = bool(np.ptp(said) > 0 and np.ptp(truth) > 0)
        values = {
            "spearman": float(stats.spearmanr(said, truth).statistic) if varies else 0.0,
            "pearson": float(stats.pearsonr(said, truth).statistic) if varies else 0.0,
        }
        return Scores(values, "spearman")
    metrics = needed("sklearn.metrics", "scikit-learn", "scoring similarities")
    values = {"accuracy": float(((said >= 0.5) == (truth >= 0.5)).mean())}
    if np.ptp(truth) > 0:
        values["auc"] = float(metrics.roc_auc_score(truth >= 0.5, said))
        values["average_precision"] = float(metrics.average_precision_score(truth >= 0.5, said))
    return Scores(values, "accuracy")


def bm25(texts: Sequence[str], asked: Sequence[str]) -> Iterator[Float[np.ndarray, " N"]]:
    """BM25 of each text for each question (Robertson and Walker, 1994), words as they are but for capital letters.

    The rows are made one at a time: as a table they are questions x texts.

    Raises:
        MissingExtraError: bm25s is not installed.
    """
    library = needed("bm25s", "bm25s", "the baseline of a search")
    table = library.BM25(method="lucene", k1=1.5, b=0.75)
    known = [_forms(text) for text in texts]
    table.index(known, show_progress=False)
    held = {form for text in known for form in text}
    for question in asked:
        forms = [form for form in _forms(question) if form in held]
        yield np.asarray(table.get_scores(forms), dtype=np.float64) if forms else np.zeros(len(texts))


def cosine_rows(asked: Any, texts: Any) -> Iterator[Float[np.ndarray, " N"]]:
    """The cosine of each text for each question, both sparse rows of length 1, one question at a time."""
    columns = texts.T.tocsr()
    for start in range(0, asked.shape[0], QUESTIONS):
        yield from (asked[start : start + QUESTIONS] @ columns).toarray()


def best_cut(values: Float[np.ndarray, " N"], alike: Bool[np.ndarray, " N"]) -> float:
    """The least of `values` from which on they count as alike, where most are right; of equal cuts the first."""
    cuts, places = np.unique(values, return_inverse=True)
    same = np.bincount(places, weights=alike, minlength=len(cuts))
    other = np.bincount(places, weights=~alike, minlength=len(cuts))
    right = same[::-1].cumsum()[::-1] + other.cumsum() - other  # alike from the cut on, and not alike below it
    return float(cuts[int(np.argmax(right))])


def word_vectors(known: Sequence[str], *texts: Sequence[str]) -> list[Any] | None:
    """Each of `texts` as sparse rows of length 1, by the frequencies of words in `known`; None where it has no words.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    table = tf_idf(known, analyzer=_forms)
    return None if table is None else [table.vectors.transform(each) for each in texts]


def _forms(text: str) -> list[str]:
    return [word.form for word in words_of(text)]
