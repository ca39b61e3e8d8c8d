"""What a study trains and judges: a text by its loss as a language model, or records by the score of their task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attentune.data.corpus import Corpus
from attentune.search.models import Models
from attentune.search.pictures import AttentionPicture
from attentune.search.recipe import EVALUATIONS
from attentune.search.result import DataResult, Measure, Sample
from attentune.spec.model import ModelSpec
from attentune.spec.run import RunSpec
from attentune.training.result import TrainResult
from attentune.training.source import Source


@dataclass(frozen=True)
class Judged:
    """What a trained model is worth. `loss` is what the study minimises (see `Measure`); not finite: it is broken."""

    loss: float
    figures: dict[str, float] = field(default_factory=dict)  # of a task
    bits_per_character: float | None = None
    bits_per_byte: float | None = None
    by_position: tuple[float, ...] = ()  # nats per token in equal parts of the context, from its start on
    left_out: tuple[float, ...] = ()  # of a final: the losses with each part of the records left out


@dataclass(frozen=True)
class Costs:
    """Milliseconds of one generated token, of a task one record, where it has a meaning; bytes of a training step."""

    latency_ms: float | None
    peak_bytes: int


@dataclass(frozen=True)
class Seconds:
    """`evaluation` is of one evaluation on the way, where it counts, `judging` of the end, by one token or record."""

    step: float
    evaluation: float
    judging: float


@dataclass(frozen=True, eq=False)
class Probe:
    """Inputs of a model and the logits that it gave, to be held against those of a fresh process.

    `inputs` are tensors of token ids, or none where `records` say what goes in.
    """

    logits: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    records: str = ""  # JSON


class Subject(ABC):
    """The data of a study, with how models of it are built, trained and judged. `size` counts what judging costs."""

    measure: Measure
    models: Models
    search_evaluations: int = EVALUATIONS  # of a trial of the search
    size: int  # tokens, or records, that are held out
    whole: int  # all that there are, with those trained on

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Equal where all the data are."""

    @property
    @abstractmethod
    def source(self) -> Corpus | Source:
        """What `train` takes. Whatever it remembers of a run is forgotten when the next one begins."""

    @abstractmethod
    def on_the_way(self, step: int, loss: float) -> float:
        """What an evaluation in training says after `step` steps, lower is better; `loss` is the one it gave."""

    @abstractmethod
    def judge(self, model: nn.Module, result: TrainResult, *, final: bool = False) -> Judged:
        """What the run that has just ended is worth; `model` gets the weights that it is judged by.

        Of a `final` run also what its records leave open, where it is judged by a score of some.
        """

    def take(self, model: nn.Module, result: TrainResult) -> None:
        """Gives `model` the weights that the run which has just ended is judged by; here those that it ended with."""
        del model, result

    @abstractmethod
    def costs(self, spec: ModelSpec, run: RunSpec, device: torch.device) -> Costs:
        """What a model of `spec` costs, whatever its weights."""

    @abstractmethod
    def timed(self, model: nn.Module, run: RunSpec) -> Seconds:
        """How long a training step, an evaluation and the judging of a run take."""

    @abstractmethod
    def searched(self, size: int) -> Subject:
        """The same, judged by at most `size` tokens or records."""

    @abstractmethod
    def search_size(self, tokens: int) -> int:
        """How many tokens, or records, of those held out have about that many tokens."""

    @abstractmethod
    def fold(self, folds: int, number: int) -> Subject:
        """With `folds`, part number `number` of all the data held out and the rest trained on; else itself."""

    @abstractmethod
    def most_steps(self, run: RunSpec) -> int | None:
        """Steps after which more of them only repeat the data too often; None where there is no such number."""

    @abstractmethod
    def data(self, tokenizer: str) -> DataResult:
        """The data as the report tells them."""

    @abstractmethod
    def protocol(self, tokens: int, *, folds: int) -> str:
        """A sentence on what the search has seen of what the finals are measured on."""

    @abstractmethod
    def save(self, folder: Path, model: nn.Module, *, card: str, extra: Mapping[str, Any]) -> None:
        """Writes the model folder, whole or not at all."""

    @abstractmethod
    def probe(self, model: nn.Module) -> Probe:
        """Some inputs with the logits of `model`."""

    @abstractmethod
    def sample(self, model: nn.Module) -> Sample | None:
        """What the model writes or says; None where it cannot."""

    @abstractmethod
    def picture(self, model: nn.Module) -> AttentionPicture | None:
        """The attention of the model over something held out; None where it has none to show."""

    def report(self, model: nn.Module, folder: Path, facts: Mapping[str, str]) -> Path | None:
        """Writes what else there is to read of the shipped model; None where there is nothing else."""
        del model, folder, facts
        return None
