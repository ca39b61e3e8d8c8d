"""Gradient flow: norms per layer, and which layers vanish or explode."""

from __future__ import annotations

import torch
from torch import nn

from attentune.training.diagnostics import gradient_flow, layer_of
from attentune.training.loop import train
from training.standin import TinyLanguageModel, small_corpus, small_run


def model_with_gradients(*sizes: float) -> nn.Module:
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(3, 3) for _ in sizes])
    model.head = nn.Linear(3, 2)
    for block, size in zip(model.blocks, sizes, strict=True):
        for p in block.parameters():
            p.grad = torch.full_like(p, size)
    for p in model.head.parameters():
        p.grad = torch.full_like(p, 1e-9)
    return model


def test_layers_are_named_by_their_number() -> None:
    assert layer_of("blocks.3.attention.query.weight") == "blocks.3"
    assert layer_of("embedding.weight") == "embedding"


def test_norms_and_a_vanishing_layer() -> None:
    record = gradient_flow(model_with_gradients(1e-4, 0.5, 1.0, 2.0), step=7)
    assert record.step == 7
    assert abs(record.norms["blocks.2"] - 12**0.5) < 1e-6  # twelve entries of 1
    assert record.vanishing == ("blocks.0",)  # the head is small too, but is no numbered layer
    assert record.exploding == ()


def test_exploding_and_nonfinite_layers() -> None:
    assert gradient_flow(model_with_gradients(1.0, 1.0, 5e3), step=1).exploding == ("blocks.2",)
    assert gradient_flow(model_with_gradients(1.0, float("inf"), 1.0), step=1).exploding == ("blocks.1",)


def test_zero_gradients_vanish_wherever_they_are() -> None:
    model = model_with_gradients(1.0, 0.0)
    model.head.weight.grad = torch.zeros(2, 3)
    model.head.bias.grad = torch.zeros(2)
    assert gradient_flow(model, step=1).vanishing == ("blocks.1", "head")


def test_records_come_before_clipping_every_so_many_steps() -> None:
    result = train(TinyLanguageModel(), small_corpus(), small_run())
    assert [record.step for record in result.diagnostics] == [15, 30]
    total = sum(norm**2 for norm in result.diagnostics[0].norms.values()) ** 0.5
    assert abs(total - result.gradient_norms[14]) < 1e-5
    assert set(result.diagnostics[0].norms) == {"embedding", "blocks.0", "blocks.1", "norm", "head"}
