"""The kinds of models that a study builds: of language, or of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from attentune.models.build import build
from attentune.search.candidates import Stack
from attentune.spec.model import ModelSpec
from attentune.tasks.task import Fitted


class Models(ABC):
    """From the spec of a recipe to a model."""

    @property
    @abstractmethod
    def stack(self) -> Stack:
        """Which layers there are to be described."""

    @abstractmethod
    def complete(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with the sizes that the data decide. Raises SpecError where it does not fit them."""

    @abstractmethod
    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        """A fresh model of a completed spec."""

    def count(self, spec: ModelSpec) -> int:
        """Parameters of a model of a completed spec, tied ones once, without filling any."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build(spec).parameters())


@final
@dataclass(frozen=True)
class LanguageModels(Models):
    """Decoders that say what comes next."""

    vocab_size: int

    @property
    def stack(self) -> Stack:
        return "decoder"

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return spec.replace(vocab_size=self.vocab_size)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        return build(spec, seed=seed)


@final
@dataclass(frozen=True, eq=False)
class TaskModels(Models):
    """What a task builds."""

    fitted: Fitted

    @property
    def stack(self) -> Stack:
        return self.fitted.task.stack

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return self.fitted.complete(spec)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        return self.fitted.build(spec, seed=seed)
