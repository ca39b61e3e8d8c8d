"""Figures of tags beside their answers: of entities by seqeval, as `conlleval` counts them, and of single tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.tasks._extra import needed
from attentune.tasks._spans import Entity, entities
from attentune.tasks.task import Prediction, Scores

MISTAKES = 20  # shown


def score_tags(
    expected: Sequence[Sequence[str]],
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    *,
    words: Sequence[Sequence[str]],
    spans: bool,
) -> Scores:
    """Precision, recall and F1 of whole entities, right in place and kind; or, without spans, the accuracy of tags.

    Raises:
        DataError: there are no records, or no tokens in them.
        MissingExtraError: seqeval or scikit-learn is not installed.
    """
    if not records:
        raise DataError("there are no records to be scored")
    given = [list(one.value) for one in predictions]
    pairs = [pair for one in zip(expected, given, strict=True) for pair in zip(*one, strict=True)]
    accuracy = sum(truth == tag for truth, tag in pairs) / max(len(pairs), 1)
    if not pairs:
        raise DataError(f"{records[0].where}: neither this nor any other record has a token to be scored")
    if not spans:
        metrics = needed("sklearn.metrics", "scikit-learn", "scoring a tagger")
        truth, tags = zip(*pairs, strict=True)
        text = str(metrics.classification_report(truth, tags, zero_division=0, digits=3))
        macro = float(metrics.f1_score(truth, tags, average="macro", zero_division=0))
        return Scores({"accuracy": accuracy, "macro_f1": macro}, "accuracy", text=text)
    seqeval = needed("seqeval.metrics", "seqeval", "scoring entities")
    scheme = needed("seqeval.scheme", "seqeval", "scoring entities").IOB2
    choice: dict[str, Any] = {"mode": "strict", "scheme": scheme, "zero_division": 0}
    truth_tags = [list(tags) for tags in expected]
    if not any(tag != "O" for tags in (*truth_tags, *given) for tag in tags):  # seqeval cannot count nothing
        values = dict.fromkeys(("f1", "precision", "recall"), 0.0)
        return Scores({**values, "accuracy": accuracy}, "f1", text="no entity is there, and none was predicted")
    values = {
        "f1": float(seqeval.f1_score(truth_tags, given, **choice)),
        "precision": float(seqeval.precision_score(truth_tags, given, **choice)),
        "recall": float(seqeval.recall_score(truth_tags, given, **choice)),
        "accuracy": accuracy,
    }
    text = str(seqeval.classification_report(truth_tags, given, digits=3, **choice))
    return Scores(values, "f1", text=text, details={"mistakes": _mistakes(expected, predictions, records, words)})


def _mistakes(
    expected: Sequence[Sequence[str]],
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    words: Sequence[Sequence[str]],
) -> list[dict[str, Any]]:
    """Sentences with wrong entities, those first where the model was surest of a wrong tag."""
    found = []
    for place, (truth, one) in enumerate(zip(expected, predictions, strict=True)):
        sure = one.fields.get("probabilities")
        wrong = [position for position, tag in enumerate(truth) if tag != one.value[position]]
        if wrong:
            found.append((max(sure[position] for position in wrong) if sure else 0.0, place))
    return [
        {
            "where": records[place].where,
            "text": " ".join(words[place])[:300],
            "expected": _named(entities(expected[place]), words[place]),
            "predicted": _named(entities(predictions[place].value), words[place]),
            "probability": round(float(sure), 4),
        }
        for sure, place in sorted(found, key=lambda pair: (-pair[0], pair[1]))[:MISTAKES]
    ]


def _named(found: Sequence[Entity], words: Sequence[str]) -> list[str]:
    return [f"{one.kind}: {' '.join(words[one.start : one.end])}" for one in found]
