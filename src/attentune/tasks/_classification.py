"""Figures of labels beside their answers, and simple ways to guess labels, with scikit-learn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.tasks._extra import needed
from attentune.tasks._tfidf import tf_idf
from attentune.tasks.task import Prediction, Scores

Metric = Literal["accuracy", "macro_f1", "micro_f1"]
BINS = 15  # of confidence, for the calibration error
MISTAKES = 20  # shown
SHOWN_LABELS = 100  # of a report or a picture that can be read
_HAN = re.compile(r"[\u3400-\u9fff\u3040-\u30ff]")


@dataclass(frozen=True)
class Expected:
    """The answers: of each record its labels, one of them unless `several`."""

    labels: tuple[str, ...]
    answers: Sequence[tuple[str, ...]]
    several: bool
    metric: Metric

    def matrix(self, answers: Sequence[Sequence[str]] | None = None) -> Bool[np.ndarray, "N C"]:
        """Which label holds of which record."""
        answers = self.answers if answers is None else answers
        number = {label: place for place, label in enumerate(self.labels)}
        held = np.zeros((len(answers), len(self.labels)), dtype=bool)
        for row, given in enumerate(answers):
            held[row, [number[label] for label in given]] = True
        return held


def score_labels(
    expected: Expected, predictions: Sequence[Prediction], records: Sequence[Record], *, asked: Sequence[str]
) -> Scores:
    """Accuracy, F1, calibration; the report by label; the confusions and the most confident mistakes as data.

    A label that the records do not hold is left out of the macro-averaged F1; where it is predicted it counts as wrong
    in the micro-averaged one.

    Raises:
        DataError: there are no records.
        MissingExtraError: scikit-learn is not installed.
    """
    metrics = needed("sklearn.metrics", "scikit-learn", "scoring a classifier")
    if not records:
        raise DataError("there are no records to be scored")
    if expected.several:
        return _score_several(expected, predictions, records, asked, metrics)
    truth = [answer[0] for answer in expected.answers]
    given = ["" if one.value is None else str(one.value) for one in predictions]
    there = sorted(set(truth))
    values = {
        "accuracy": float(metrics.accuracy_score(truth, given)),
        "macro_f1": float(metrics.f1_score(truth, given, labels=there, average="macro", zero_division=0)),
        "weighted_f1": float(metrics.f1_score(truth, given, labels=there, average="weighted", zero_division=0)),
    }
    details: dict[str, Any] = {"labels": list(expected.labels)}
    sure = [one.fields.get("probability") for one in predictions]
    if all(share is not None for share in sure):
        right = np.array([a == b for a, b in zip(truth, given, strict=True)])
        bins = calibration_bins(np.array(sure, dtype=np.float64), right)
        values["calibration_error"], details["calibration"] = calibration_error(bins), bins
    details["confusion"] = metrics.confusion_matrix(truth, given, labels=list(expected.labels)).tolist()
    details["mistakes"] = mistakes(truth, predictions, records, asked=asked)
    text = str(metrics.classification_report(truth, given, labels=there, zero_division=0, digits=3))
    return Scores(values, expected.metric, text=text, details=details)


def _score_several(
    expected: Expected, predictions: Sequence[Prediction], records: Sequence[Record], asked: Sequence[str], metrics: Any
) -> Scores:
    truth, given = expected.matrix(), expected.matrix([tuple(one.value) for one in predictions])
    there = [number for number in range(len(expected.labels)) if truth[:, number].any()]

    values = {
        "accuracy": float((truth == given).all(1).mean()),
        "macro_f1": float(metrics.f1_score(truth, given, labels=there or None, average="macro", zero_division=0)),
        "micro_f1": float(metrics.f1_score(truth, given, average="micro", zero_division=0)),
    }
    details: dict[str, Any] = {"labels": list(expected.labels)}
    shares = [one.fields.get("probabilities") for one in predictions]
    if all(isinstance(share, dict) and len(share) == len(expected.labels) for share in shares):
        flat = np.array([[share[label] for label in expected.labels] for share in shares if share], dtype=np.float64)
        sure = np.maximum(flat, 1 - flat)
        bins = calibration_bins(sure.ravel(), (truth == given).ravel())
        values["calibration_error"], details["calibration"] = calibration_error(bins), bins
    names = list(expected.labels)
    text = metrics.classification_report(truth, given, target_names=names, zero_division=0, digits=3)
    wrong = [row for row in range(len(records)) if (truth[row] != given[row]).any()][:MISTAKES]
    shown = [
        {
            "where": records[row].where,
            "text": _shown(records[row], asked),
            "expected": sorted(expected.answers[row]),
            "predicted": list(predictions[row].value),
        }
        for row in wrong
    ]
    return Scores(values, expected.metric, text=str(text), details={**details, "mistakes": shown})


def calibration_bins(confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"]) -> list[dict[str, float]]:
    """Of bins of equal width, as many as hold anything: mean confidence, share of right answers, and how many."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
            "count": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """The expected calibration error (arXiv:1706.04599): |accuracy - confidence| over the bins, by what they hold."""
    whole = sum(one["count"] for one in bins)
    return sum(abs(one["accuracy"] - one["confidence"]) * one["count"] for one in bins) / max(whole, 1)


def mistakes(
    truth: Sequence[str], predictions: Sequence[Prediction], records: Sequence[Record], *, asked: Sequence[str]
) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of, the surest first: often the label is at fault."""
    wrong = [
        (float(one.fields.get("probability") or 0.0), place)
        for place, (one, label) in enumerate(zip(predictions, truth, strict=True))
        if one.value != label
    ]
    return [
        {
            "where": records[place].where,
            "text": _shown(records[place], asked),
            "expected": truth[place],
            "predicted": predictions[place].value,
            "probability": round(sure, 4),
        }
        for sure, place in sorted(wrong, key=lambda pair: (-pair[0], pair[1]))[:MISTAKES]
    ]


def _shown(record: Record, asked: Sequence[str], most: int = 300) -> str:
    text = " | ".join(" ".join(str(record[column]).split()) for column in asked)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def majority(train: Expected, count: int) -> list[Prediction]:
    """The commonest label, or, of several, those that hold of at least half of the training records."""
    counts = Counter(label for answer in train.answers for label in answer)
    if train.several:
        often = [label for label in train.labels if counts[label] * 2 >= len(train.answers)]
        return [Prediction(often)] * count
    (label, held), *_ = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Prediction(label, {"probability": held / len(train.answers)})] * count


def bag_of_words(train: Expected, texts: Sequence[str], asked: Sequence[str]) -> list[Prediction] | None:
    """TF-IDF of words and pairs of words into a logistic regression; of one to three characters in Chinese or Japanese.

    None where the texts hold nothing of these.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    linear = needed("sklearn.linear_model", "scikit-learn", "the baseline of a classifier")
    spaceless = sum(len(_HAN.findall(text)) for text in texts) > 0.3 * sum(map(len, texts))
    choice: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 3)} if spaceless else {"ngram_range": (1, 2)}
    if not spaceless:
        choice["token_pattern"] = r"(?u)\b\w+\b|[!?]"
    table = tf_idf(texts, min_df=2 if len(texts) > 1000 else 1, **choice)
    if table is None:
        return None
    known, new = table.rows, table.vectors.transform(asked)
    if train.several:
        multiclass = needed("sklearn.multiclass", "scikit-learn", "the baseline of a classifier")
        model = multiclass.OneVsRestClassifier(linear.LogisticRegression(C=10, max_iter=1000))
        shares = model.fit(known, train.matrix().astype(int)).predict_proba(new)
        rows = [dict(zip(train.labels, map(float, row), strict=True)) for row in shares]
        return [Prediction([name for name, p in row.items() if p >= 0.5], {"probabilities": row}) for row in rows]
    model = linear.LogisticRegression(C=10, max_iter=1000)
    shares = model.fit(known, [answer[0] for answer in train.answers]).predict_proba(new)
    return [Prediction(str(model.classes_[row.argmax()]), {"probability": float(row.max())}) for row in shares]
