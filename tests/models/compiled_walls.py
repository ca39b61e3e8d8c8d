"""Whole models, compiled without any break of the graph, equal themselves uncompiled.

Run by test_walls.py, in a process without run-time checks of shapes.
"""

from __future__ import annotations

import pytest
import torch

from attentune.kernels import Layout
from models.language import context_for, decoder, loss_of, tokens
from models.probes import PROBES


def check(text: str, changes: dict[str, object], backend: str) -> None:
    torch.compiler.reset()
    between_layers = "residual_scores" in text or "share" in changes
    model = decoder(text, depth=2 if between_layers else 1, **changes).train()
    ids = tokens(2, 9)
    model.zero_grad()
    loss_of(model, ids).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) == len(list(model.parameters()))
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    logits = compiled(ids[:, :-1], context=context_for(model, 2)).logits
    plain = model(ids[:, :-1], context=context_for(model, 2)).logits
    assert torch.allclose(logits, plain, atol=1e-10)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected[name], atol=1e-10), name


@pytest.mark.parametrize("name", list(PROBES)[::2])
def test_probe(name: str) -> None:
    check(*PROBES[name], backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PROBES)[1::2])
def test_another_probe(name: str) -> None:
    check(*PROBES[name], backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_probe_with_inductor(name: str) -> None:
    check(*PROBES[name], backend="inductor")


def test_packed_rows() -> None:
    torch.compiler.reset()
    model = decoder("heads=2, mask=window(3), position=rotary, branches=lstm", "heads=2, mask=causal, position=alibi")
    ids = tokens(2, 8)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, -1, -1]])

    def packed(ids: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        return model(ids, Layout.packed(documents)).logits

    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    real = documents >= 0  # what a model makes of padding is finite, and may differ from kernel to kernel
    assert torch.allclose(compiled(ids, documents)[real], packed(ids, documents)[real], atol=1e-10)


def test_memory_from_segment_to_segment() -> None:
    torch.compiler.reset()
    model = decoder("heads=2, position=rotary, mask=causal, memory=transformer_xl(3)", depth=1).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    states = [None, None]
    for segment in tokens(2, 8).split(4, 1):  # the second looks back at as much as the memory holds
        outs = [run(segment, state=state) for run, state in zip((model, compiled), states, strict=True)]
        assert torch.allclose(outs[0].logits, outs[1].logits, atol=1e-10)
        states = [out.state for out in outs]
