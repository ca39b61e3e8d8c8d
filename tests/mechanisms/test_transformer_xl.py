from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention, layer
from attentune.mechanisms.transformer_xl import TransformerXL
from attentune.models.build import build
from attentune.spec.model import ModelSpec


def model(text: str, *, depth: int = 1) -> torch.nn.Module:
    spec = ModelSpec(vocab_size=13, width=8, depth=depth, context=32, layers=(layer(text),))
    return build(spec, seed=0).double().eval()


def in_segments(net: torch.nn.Module, ids: torch.Tensor, length: int) -> torch.Tensor:
    state, parts = None, []
    for segment in ids.split(length, 1):
        out = net(segment, state=state)
        state = out.state
        parts.append(out.logits)
    return torch.cat(parts, 1)


def test_keeps_the_newest_without_gradient() -> None:
    hidden = torch.arange(5.0).view(1, 5, 1).requires_grad_()
    kept = TransformerXL(length=3).keep(hidden)
    assert kept.flatten().tolist() == [2.0, 3.0, 4.0]
    assert not kept.requires_grad


def test_one_layer_with_memory_equals_the_full_context() -> None:
    ids = torch.randint(13, (2, 12))
    net = model("heads=2, mask=causal, position=alibi, memory=transformer_xl(12)")
    assert torch.allclose(in_segments(net, ids, 4), net(ids).logits, atol=1e-12)


def test_a_deep_model_under_a_window_equals_the_full_context() -> None:
    ids = torch.randint(13, (2, 15))
    net = model("heads=2, mask=window(4), position=rotary, memory=transformer_xl(3)", depth=3)
    assert torch.allclose(in_segments(net, ids, 5), net(ids).logits, atol=1e-12)


def test_a_memory_that_is_too_short_forgets() -> None:
    ids = torch.randint(13, (1, 12))
    net = model("heads=2, mask=causal, memory=transformer_xl(2)")
    first, second = in_segments(net, ids, 4), net(ids).logits
    assert torch.allclose(first[:, :4], second[:, :4], atol=1e-12)
    assert not torch.allclose(first[:, 8:], second[:, 8:], atol=1e-6)


def test_no_gradient_flows_into_an_earlier_segment() -> None:
    net = model("heads=2, mask=causal, memory=transformer_xl(4), branches=lstm")
    first = net(torch.randint(13, (1, 4)))
    assert all(layer.memory is not None and not layer.memory.requires_grad for layer in first.state.layers)
    first.logits.sum().backward()
    net(torch.randint(13, (1, 4)), state=first.state).logits.sum().backward()  # a graph kept alive would raise here


def test_layers_share_one_memory_and_it_never_shows_the_future() -> None:
    with pytest.raises(SpecError, match="every layer needs the same memory"):
        ModelSpec(
            vocab_size=5,
            width=8,
            depth=2,
            layers=tuple(layer(f"heads=2, mask=causal, memory=transformer_xl({n})") for n in (2, 3)),
        )
    with pytest.raises(SpecError, match="memory=transformer_xl needs a mask that never shows later keys"):
        attention("heads=2, memory=transformer_xl(4)")
