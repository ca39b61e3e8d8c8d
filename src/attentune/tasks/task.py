"""The contract of every task.

A `Task` is a frozen value: the user's options, such as the names of columns. `fit` looks at training records and gives
a `Fitted`: the task with its tokenizers and labels, which is what a model folder keeps beside the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from attentune.data.batches import MicroBatch
from attentune.data.records import Record
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.spec.value import Frozen

Stack = Literal["encoder", "decoder", "encoder-decoder"]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Example:
    """A record as numbers.

    ids [T] go in; targets are class numbers for each position that the head has logits for, `IGNORED` where nothing is
    scored (of a classifier [1], of a tagger or a decoder [T]), or where several labels may hold at once floats.
    `source` [S] goes into the encoder where there is one beside the decoder, or is the other text where two are
    compared. `marks` [T] number what is known of each token beside its identity.
    """

    ids: Array
    targets: Array
    source: Array | None = None
    marks: Array | None = None

    @property
    def length(self) -> int:
        """Tokens of the longer side, by which examples are put together."""
        return max(len(self.ids), 0 if self.source is None else len(self.source))


@dataclass(frozen=True)
class Prediction:
    """What a model says of one record.

    `value` is plain data: a label, labels, tags, a text. `fields` are what else is worth a column: probabilities,
    scores, alternatives.
    """

    value: Any
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """For a line of JSON or a row of CSV."""
        return {"prediction": self.value, **self.fields}


@dataclass(frozen=True)
class Scores:
    """Figures by name. `main` names the one that a study optimises; `text` is a report to read; `signature` says how
    a figure was computed, where the metric has one."""

    values: Mapping[str, float]
    main: str
    text: str = ""
    signatures: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)  # such as the confusion matrix
    best: float = 1.0  # the main figure of answers that are all right; 100 for figures in per cent

    @property
    def value(self) -> float:
        """The main figure: higher is better."""
        return self.values[self.main]


class Task(Frozen, ABC):
    """A kind of problem with the user's options for it."""

    kind: str
    stack: ClassVar[Stack]
    chosen_by: ClassVar[Literal["score", "loss"]] = "score"  # what on the validation records makes an epoch the best

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that every record must have for training."""

    @property
    @abstractmethod
    def asked(self) -> tuple[str, ...]:
        """Those that it must have for a prediction."""

    @property
    def drawn_by(self) -> str | None:
        """A column of labels that a part drawn for validation shall hold evenly."""
        return None

    @property
    def drawn_whole(self) -> tuple[str, ...]:
        """Columns of which one keeps its values together when a part is drawn, such as the article of a question: the
        first that the records have with more than one value. None: records are drawn one by one."""
        return ()

    def usable(self, record: Record) -> bool:
        """Whether training can learn from a record at all; blank lines of a text, for example, are left out."""
        del record
        return True

    @abstractmethod
    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> Fitted:
        """Tokenizers and labels from the training records. Raises DataError with file and line."""

    @classmethod
    @abstractmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> Fitted:
        """What `Fitted.save` wrote. Raises CheckpointError."""


@runtime_checkable
class Searching(Protocol):
    """A fitted task that searches a collection of texts, which `Fitted.widen` grows."""

    texts: list[str]


class Fitted(ABC):
    """A task that knows its tokenizers and labels."""

    task: Task

    @abstractmethod
    def complete(self, spec: ModelSpec) -> ModelSpec:
        """The model with the sizes that the data decide: vocabularies, the encoder's too."""

    @abstractmethod
    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        """A fresh model: `forward(ids, layout, **inputs)` gives an output with `.logits` and `.losses`."""

    @abstractmethod
    def example(self, record: Record) -> Example:
        """Raises DataError with file and line where a label is unknown or a text is empty."""

    def examples(self, record: Record) -> list[Example]:
        """All examples of a record, such as the windows of a long text; raises as `example`, which most have one of."""
        return [self.example(record)]

    def redrawn(self, example: Example, random: np.random.Generator) -> Example:
        """A training example as one pass sees it, of the same length: what is drawn anew for each is drawn here."""
        del random
        return example

    def widen(self, records: Sequence[Record]) -> None:
        """Takes note of what a search may find in the records of another part, before a model is built.

        Nothing may be learned from them: only the collection that is searched grows. Most tasks have none.
        """
        return

    def settle(self, model: nn.Module, records: Sequence[Record]) -> None:
        """Sets the buffers of a model that follow from its weights and held-out records: a threshold, an index.

        Called whenever the weights are new, before they are scored or saved. Most models have no such buffers.
        """
        return

    @abstractmethod
    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        """Padded rows. `scored` is the number of scored targets of the whole step; None: this is all of it."""

    @abstractmethod
    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        """In the order of the records, which need the columns `asked` alone.

        A record without text is answered without a guess: no label, no tags, an empty text.
        """

    @abstractmethod
    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        """The task's metrics."""

    @abstractmethod
    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        """Simple answers to hold a model against, by name: the majority, the first sentences, word overlap."""

    def attention(self, model: nn.Module, record: Record) -> tuple[list[str], list[str], Tensor] | None:
        """Where the model looked for what it says of a record: tokens it read, tokens it wrote, weights [wrote, read].

        None for a task that answers in no text of its own.
        """
        del model, record
        return None

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Everything but the weights, as plain data: no code, no pickle."""
