from __future__ import annotations

from math import log
from types import SimpleNamespace

import pytest
import torch

from attentune.mechanisms import attention
from attentune.mechanisms.learned_sink import LearnedSink
from kernels.attending import SlotTensors, attend, operands, sizes


def with_sink(*sink: float) -> SlotTensors:
    return {"heads": [{}], "normalizer": [{"sink": torch.tensor(sink, dtype=torch.float64, requires_grad=True)}]}


def test_by_hand() -> None:
    s = torch.tensor([[[[0.0, log(2.0), 9.0]]]], dtype=torch.float64)
    seen = torch.tensor([True, True, False])
    p = LearnedSink().weights({"sink": torch.tensor([log(5.0)])}, s, seen)
    assert p.flatten().tolist() == pytest.approx([1 / 8, 2 / 8, 0.0], abs=1e-7)


def test_equals_softmax_times_the_sigmoid_of_lse_minus_b() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 5)
    plain = attend("heads=2, mask=causal", q, k, v, wanted=frozenset({"output", "lse"}))
    lse = plain.extra["lse"]
    assert isinstance(lse, torch.Tensor)
    sink = torch.tensor([0.7, -1.3], dtype=torch.float64)
    expected = plain.output * torch.sigmoid(lse - sink[:, None])[..., None]
    found = attend("heads=2, mask=causal, normalizer=learned_sink", q, k, v, params=with_sink(0.7, -1.3)).output
    assert torch.allclose(found, expected, atol=1e-12)


def test_begins_as_softmax_off_by_one_and_a_deep_sink_is_none() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    spec = "heads=2, mask=causal, normalizer=learned_sink"
    off_by_one = attend("heads=2, mask=causal, normalizer=softmax_off_by_one", q, k, v).output
    assert torch.allclose(attend(spec, q, k, v).output, off_by_one, atol=1e-14)
    softmax = attend("heads=2, mask=causal", q, k, v).output
    assert torch.allclose(attend(spec, q, k, v, params=with_sink(-50.0, -50.0)).output, softmax, atol=1e-14)


def test_equals_gpt_oss_with_its_gradients() -> None:
    gpt_oss = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    spec = attention("heads=4/2, mask=causal, normalizer=learned_sink")
    q, k, v = operands(sizes(spec), 5)
    params = with_sink(0.3, -0.2, 1.5, -2.0)
    sink = params["normalizer"][0]["sink"]
    module = SimpleNamespace(num_key_value_groups=2, training=False, sinks=sink)
    hidden = torch.zeros(1, 1, 5, 5, dtype=torch.float64).masked_fill(torch.ones(5, 5).triu(1) > 0, -1e30)
    theirs = gpt_oss.eager_attention_forward(module, q, k, v, hidden, scaling=0.5)[0].transpose(1, 2)
    ours = attend(spec, q, k, v, params=params).output
    assert torch.allclose(ours, theirs, atol=1e-12)
    for mine, right in zip(
        torch.autograd.grad(ours.square().sum(), (sink, q, k, v)),
        torch.autograd.grad(theirs.square().sum(), (sink, q, k, v)),
        strict=True,
    ):
        assert torch.allclose(mine, right, atol=1e-12)
