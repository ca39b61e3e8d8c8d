"""Costs against numbers counted by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attentune.evaluation.cost import LiveBytes, median_seconds, parameter_count, training_cost


@dataclass
class Output:
    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


class TwoMatrices(nn.Module):
    """Embedding [V E], then a linear layer [V E] without bias."""

    def __init__(self, vocabulary: int = 50, width: int = 20) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor, layout: Any = None) -> Output:
        return Output(self.head(self.embedding(ids)))


def test_tied_parameters_count_once() -> None:
    model = TwoMatrices()
    assert parameter_count(model) == 2 * 50 * 20
    model.head.weight = model.embedding.weight
    assert parameter_count(model) == 50 * 20


def test_live_bytes_are_the_peak_and_views_count_once() -> None:
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a + 1  # 8,000 bytes alive
        view = b.view(10, 100)[2:]
        del a, b
        c = view * 2  # 4,000 that `view` keeps, and 3,200
    assert live.peak == 8000
    assert live.current == 7200
    del view, c
    assert live.current == 0


def test_training_cost_by_hand() -> None:
    model = TwoMatrices()
    before = model.head.weight.detach().clone()
    cost = training_cost(model, vocab_size=50, batch=4, context=8, repeats=2)
    # one product forward, and two backward, each 2 * V * E operations a token
    assert cost.flops_per_token == 3 * 2 * 50 * 20
    weights = 2 * 50 * 20 * 4
    assert cost.peak_bytes >= 4 * weights  # weights, gradients and two moments
    assert cost.peak_bytes < 4 * weights + 6 * (4 * 8 * 50 * 4) + 20_000  # and a few arrays of logits' size
    assert cost.tokens_per_second > 0
    assert torch.equal(model.head.weight, before)


def test_a_larger_batch_holds_more() -> None:
    small, large = (
        training_cost(TwoMatrices(), vocab_size=50, batch=batch, context=8, repeats=1).peak_bytes for batch in (2, 20)
    )
    assert large - small >= 2 * (18 * 8 * 50 * 4)  # logits and their gradient at least


def test_the_median_ignores_one_slow_run() -> None:
    delays = iter([0.0, 0.0, 0.05, 0.0])

    def sleepy() -> None:
        import time

        time.sleep(next(delays))

    assert median_seconds(sleepy, repeats=3, device=torch.device("cpu")) == pytest.approx(0.0, abs=0.02)
