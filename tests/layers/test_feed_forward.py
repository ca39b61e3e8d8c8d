from __future__ import annotations

import math

import pytest
import torch

from attentune.layers.feed_forward import FeedForward
from attentune.spec.model import FeedForwardSpec


def tanh_gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu", 3 * gelu(2.0) - gelu(-1.0)),
        ("gelu_tanh", 3 * tanh_gelu(2.0) - tanh_gelu(-1.0)),
        ("relu", 3 * 2.0),
        ("relu2", 3 * 4.0),
        ("silu", 3 * silu(2.0) - silu(-1.0)),
        ("swiglu", 3 * silu(2.0) * 5.0 - silu(-1.0) * 7.0),
        ("geglu", 3 * gelu(2.0) * 5.0 - gelu(-1.0) * 7.0),
        ("geglu_tanh", 3 * tanh_gelu(2.0) * 5.0 - tanh_gelu(-1.0) * 7.0),
    ],
)
def test_each_network_by_hand(name: str, expected: float) -> None:
    spec = FeedForwardSpec(name=name, hidden=2)  # type: ignore[arg-type]
    network = FeedForward(spec, width=1, depth=1, bias=False).double()
    rows = [[2.0], [-1.0], [5.0], [7.0]]  # W1, and W3 below it where the network is gated
    with torch.no_grad():
        network.up.copy_(torch.tensor(rows if spec.gated else rows[:2]))
        network.down.copy_(torch.tensor([[3.0, -1.0]]))
    assert network(torch.ones(1, 1, 1, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-12)


def test_gated_networks_are_narrower_so_that_they_cost_the_same() -> None:
    assert FeedForwardSpec(name="relu").hidden_width(96) == 384
    assert FeedForwardSpec(name="geglu").hidden_width(96) == FeedForwardSpec(name="swiglu").hidden_width(96) == 256
