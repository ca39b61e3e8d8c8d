"""Small models and texts that train in milliseconds, for the tests of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attentune.data.corpus import Corpus, tokenize
from attentune.data.tokenizers import train_tokenizer
from attentune.spec.run import OptimizerSpec, RunSpec, ScheduleSpec

LETTERS = 10
VOCABULARY = 12


@dataclass
class Output:
    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Carried:
    hidden: Tensor
    segments: int


class TinyLanguageModel(nn.Module):
    """Embedding, two residual layers over a causal running mean, dropout, head."""

    has_memory = False

    def __init__(self, *, dropout: float = 0.2, auxiliary: float = 0.0, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.embedding.weight.role = "embedding"
        self.head.weight.role = "head"
        self.auxiliary = auxiliary
        self.layouts: list[Any] = []

    def forward(self, ids: Tensor, layout: Any = None, *, state: Any = None) -> Output:
        self.layouts.append(layout)
        x = self.embedding(ids)
        counts = torch.arange(1, ids.shape[1] + 1).view(1, -1, 1)
        for block in self.blocks:
            x = x + self.dropout(torch.tanh(block(x.cumsum(1) / counts)))
        losses = {"size": self.auxiliary * x.square().mean()} if self.auxiliary else {}
        return Output(self.head(self.norm(x)), losses)


class RememberingModel(nn.Module):
    """A recurrent model that hands its hidden state on to the next segment."""

    has_memory = True

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)
        self.fresh_starts = 0
        self.seen: list[Tensor] = []

    def forward(self, ids: Tensor, layout: Any = None, *, state: Any = None) -> Output:
        self.fresh_starts += state is None
        self.seen.append(ids)
        before = None if state is None else state.hidden
        x, hidden = self.rnn(self.embedding(ids), before)
        return Output(self.head(x), state=Carried(hidden, 1 if state is None else state.segments + 1))


def small_corpus(*, train: int = 600, validation: int = 90, name: str = "text-1") -> Corpus:
    """A text with structure: mostly counting upwards in letters, so that there is something to learn."""
    rng = np.random.default_rng(7)
    numbers = (1 + (rng.random(train + validation) < 0.2)).cumsum() % LETTERS
    text = "".join(chr(ord("a") + number) for number in numbers)
    tokenizer = train_tokenizer("char", [text])
    parts = [tokenize([piece], tokenizer) for piece in (text[:train], text[train:])]
    return Corpus(parts[0], parts[1], tokenizer, name, "a small text")


def small_run(**changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "context": 8,
        "batch": 4,
        "steps": 30,
        "optimizer": OptimizerSpec(learning_rate=1e-2),
        "schedule": ScheduleSpec(warmup=3),
        "evaluate_every": 10,
        "checkpoint_every": 10,
        "diagnose_every": 15,
        "seed": 3,
    }
    return RunSpec(**{**values, **changes})
