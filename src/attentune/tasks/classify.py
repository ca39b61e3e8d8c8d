"""Texts to labels: one of several, or with `several` any number of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import nn

from attentune.data.batches import MicroBatch
from attentune.data.record import Record, described, label_text
from attentune.data.subwords import SubwordTokenizer
from attentune.errors import CheckpointError, DataError, near
from attentune.models.build import seeded
from attentune.models.storage import atomic_write
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._classification import Expected, bag_of_words, majority, score_labels
from attentune.tasks._ensemble import Members, alone_or_together
from attentune.tasks._texts import Column, cell, in_batches, label_of, padded, text_of, trained_tokenizer, warn_of_cuts
from attentune.tasks.heads import Classifier, PoolingName
from attentune.tasks.task import Array, Example, Fitted, Prediction, Scores, Task

Share = Annotated[float, Field(ge=0, lt=1)]
LABELS = "labels.json"
ALTERNATIVES = 3  # labels whose probabilities a prediction tells


@final
class Classify(Task):
    """`text`, or the two texts `text` and `pair`, to `label`.

    With `several`, the column `label` holds any number of labels, separated by `separator`, or a list of them.
    """

    kind: Literal["classify"] = "classify"
    stack: ClassVar[Literal["encoder"]] = "encoder"
    text: Column = "text"
    label: Column = "label"
    pair: Column | None = None  # a second text
    several: bool = False  # any number of labels may hold at once
    separator: Annotated[str, Field(min_length=1)] = ","  # between labels in a cell
    pooling: PoolingName = "mean"  # how the vectors of tokens become one
    dropout: Share = 0.3  # before the output layer
    word_dropout: Share = 0.1  # share of tokens that training reads as unknown ones
    class_weights: Literal["none", "balanced"] = "none"  # balanced: by 1 / frequency, for rare labels
    members: Members = 1  # models that learn side by side, whose probabilities are averaged
    metric: Literal["accuracy", "macro_f1", "micro_f1"] = "accuracy"  # by which the best epoch is chosen

    @model_validator(mode="after")
    def _columns_differ(self) -> Classify:
        if len({self.text, self.label, self.pair}) < 3:
            raise ValueError(f"text, pair and label are different columns, got {self.columns}")
        if self.metric == "micro_f1" and not self.several:
            raise ValueError("metric=micro_f1 is for several labels; of one it is the accuracy")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.asked, self.label)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def drawn_by(self) -> str | None:
        return None if self.several else self.label

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedClassify:
        counts: Counter[str] = Counter()
        for record in records:
            counts.update(self.labels_of(record))
        if len(counts) < 2:
            where = records[0].where.partition(",")[0] if records else "the training data"
            raise DataError(f"{where}: column {self.label!r} holds {len(counts)} labels; at least 2 are needed")
        tokenizer = trained_tokenizer((text_of(one, name) for one in records for name in self.asked), data)
        fitted = FittedClassify(self, tokenizer, tuple(sorted(counts)), context, _weights(self, counts, len(records)))
        warn_of_cuts([fitted.whole_length(one) for one in records], context, "training texts")
        return fitted

    def labels_of(self, record: Record) -> tuple[str, ...]:
        """The labels of a record. Raises DataError where there must be one and is none, or something that is none."""
        if not self.several:
            return (label_of(record, self.label),)
        held = cell(record, self.label)
        if isinstance(held, str) and held.lstrip().startswith("["):  # as `predict` writes them into a table
            held = _listed(held)
        if isinstance(held, str) or held is None:
            held = (held or "").split(self.separator)
        labels = []
        for part in held if isinstance(held, list | tuple) else (held,):
            if (label := label_text(part)) is None:
                raise DataError(f"{record.where}: column {self.label!r} holds {described(part)}, not a label")
            labels.append(label.strip())
        return tuple(dict.fromkeys(filter(None, labels)))

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedClassify:
        try:
            held = json.loads((folder / LABELS).read_text(encoding="utf-8"))
            labels, context, weights = tuple(map(str, held["labels"])), int(held["context"]), held["class_weights"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / LABELS} is missing or damaged: {error}") from None
        kept = None if weights is None else np.array(weights, dtype=np.float32)
        return FittedClassify(cls(**options), SubwordTokenizer.load(folder), labels, context, kept)


def _listed(text: str) -> Any:
    """The list that a cell holds as JSON; any other text as it is."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, list) else text


def _weights(task: Classify, counts: Mapping[str, int], records: int) -> Float[np.ndarray, " C"] | None:
    """Of one label n / (C n_c), 1 on average over the records; of several the odds against each."""
    if task.class_weights == "none":
        return None
    each = np.array([counts[label] for label in sorted(counts)], dtype=np.float32)
    if task.several:
        return np.asarray(np.maximum(records - each, 1) / each, dtype=np.float32)
    return np.asarray(records / (len(each) * each), dtype=np.float32)


def _cut(texts: Sequence[Array], room: int) -> list[Array]:
    """The beginnings of one or two texts, `room` tokens together; the longer of two gives way first."""
    if len(texts) == 1:
        return [texts[0][:room]]
    first, second = texts
    kept = min(len(first), max(room - len(second), room - room // 2))
    return [first[:kept], second[: room - kept]]


@final
class FittedClassify(Fitted):
    """`Classify` with its tokenizer and labels; `context` is the most tokens of a text that are read."""

    task: Classify

    def __init__(
        self,
        task: Classify,
        tokenizer: SubwordTokenizer,
        labels: tuple[str, ...],
        context: int,
        weights: Float[np.ndarray, " C"] | None,
    ) -> None:
        self.task, self.tokenizer, self.labels, self.context, self.weights = task, tokenizer, labels, context, weights
        self._numbers = {label: number for number, label in enumerate(labels)}

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return spec.replace(vocab_size=self.tokenizer.vocab_size, context=self.context)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        task = self.task

        def one() -> Classifier:
            return Classifier(
                spec,
                classes=len(self.labels),
                pooling=task.pooling,
                dropout=task.dropout,
                hidden_share=task.word_dropout,
                unknown=self.tokenizer.unknown,
                special=self.tokenizer.special,
            )

        return seeded(lambda: alone_or_together(one, task.members, several=task.several), seed)

    def whole_length(self, record: Record) -> int:
        """Tokens of a record before it is cut."""
        return len(self._whole([record])[0])

    def example(self, record: Record) -> Example:
        ids = self._rows([record])[0]
        if not self._has_text(record):
            raise DataError(f"{record.where}: column {self.task.text!r} holds no text; leave such rows out")
        return Example(ids, self._targets(record))

    def _targets(self, record: Record) -> Array:
        numbers = []
        for label in self.task.labels_of(record):
            if label not in self._numbers:
                raise DataError(
                    f"{record.where}: label {label!r} does not occur in the training data: correct it or "
                    f"leave such rows out; {near(label, self.labels)}"
                )
            numbers.append(self._numbers[label])
        if not self.task.several:
            return np.array(numbers, dtype=np.int64)
        targets = np.zeros((1, len(self.labels)), dtype=np.float32)
        targets[0, numbers] = 1
        return targets

    def _whole(self, records: Sequence[Record], most: int | None = None) -> list[Array]:
        """Tokens of each record: the class's own where it is asked for, the text, and after a separator its pair.

        Of rows longer than `most` the texts are cut at their ends, of a pair the longer one first.
        """
        tokenizer, task = self.tokenizer, self.task
        texts = [tokenizer.encode_batch([text_of(one, column) for one in records]) for column in task.asked]
        between = [tokenizer.separator]
        start = [tokenizer.classifier] if task.pooling == "first" or tokenizer.framed else []
        end = between if tokenizer.framed else []
        rows = []
        for each in zip(*texts, strict=True):
            room = None if most is None else max(most - len(start) - len(end) - (len(each) - 1), 0)
            kept = each if room is None else _cut(each, room)
            held = [part for text in kept for part in (between, text)][1:]
            rows.append(np.concatenate([start, *held, end]).astype(np.int32)[:most])
        return rows

    def _rows(self, records: Sequence[Record]) -> list[Array]:
        """The same, cut at the context; what holds nothing is one unknown token."""
        nothing = np.array([self.tokenizer.unknown], dtype=np.int32)
        return [row if len(row) else nothing for row in self._whole(records, self.context)]

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        ids, layout = padded([one.ids for one in examples], self.tokenizer.pad, device)
        targets = torch.from_numpy(np.stack([one.targets for one in examples])).to(device)
        whole = sum(one.targets.size for one in examples)
        weights = None if self.weights is None else torch.from_numpy(self.weights).to(device)
        return MicroBatch(ids, targets, layout, whole / (scored or whole), class_weights=weights)

    @torch.inference_mode()
    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        asked = [place for place, one in enumerate(records) if self._has_text(one)]
        rows, device = self._rows([records[place] for place in asked]), next(model.parameters()).device
        model.eval()
        found = [self._nothing() for _ in records]
        for chosen in in_batches(rows):
            ids, layout = padded([rows[row] for row in chosen], self.tokenizer.pad, device)
            logits = model(ids, layout).logits[:, 0].float()
            shares = logits.sigmoid() if self.task.several else logits.softmax(-1)
            for row, share in zip(chosen, shares.double().cpu().numpy(), strict=True):
                found[asked[row]] = self._prediction(share)
        return found

    def _has_text(self, record: Record) -> bool:
        return any(text_of(record, column).strip() for column in self.task.asked)

    def _nothing(self) -> Prediction:
        """What is said of a record without text: no label, or of several none of them, with no probability."""
        if self.task.several:
            return Prediction([], {"probabilities": dict.fromkeys(self.labels, 0.0)})
        return Prediction(None, {"probability": 0.0, "probabilities": {}})

    def _prediction(self, shares: Float[np.ndarray, " C"]) -> Prediction:
        if self.task.several:
            named = {label: round(float(share), 6) for label, share in zip(self.labels, shares, strict=True)}
            return Prediction([label for label, share in named.items() if share >= 0.5], {"probabilities": named})
        best = np.argsort(-shares, kind="stable")[:ALTERNATIVES]
        named = {self.labels[number]: round(float(shares[number]), 6) for number in best}
        value = self.labels[best[0]]
        return Prediction(value, {"probability": named[value], "probabilities": named})

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        return score_labels(self._expected(records), predictions, records, asked=self.task.asked)

    def _expected(self, records: Sequence[Record]) -> Expected:
        for record in records:
            self._targets(record)  # refuses labels that are missing or unknown
        answers = [self.task.labels_of(record) for record in records]
        return Expected(self.labels, answers, several=self.task.several, metric=self.task.metric)

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        train = list(train)
        known, expected = self._expected(train), self._expected(records)

        def text(record: Record) -> str:
            return " \n ".join(text_of(record, column) for column in self.task.asked)

        given = majority(known, len(records))
        answers = bag_of_words(known, [text(one) for one in train], [text(one) for one in records])
        found = {"majority": given} | ({} if answers is None else {"TF-IDF + logistic regression": answers})
        return {name: score_labels(expected, each, records, asked=self.task.asked) for name, each in found.items()}

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        weights = None if self.weights is None else self.weights.tolist()
        held = {"labels": self.labels, "context": self.context, "class_weights": weights}
        atomic_write(folder / LABELS, json.dumps(held, ensure_ascii=False, indent=1) + "\n")
