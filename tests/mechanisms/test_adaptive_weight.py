from __future__ import annotations

from math import log

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.adaptive_weight import AdaptiveWeight
from kernels.attending import SlotTensors, attend, operands, parameters, places, sizes


def with_weight(a: torch.Tensor) -> SlotTensors:
    return {"heads": [{}], "scores": [{"log_a": a.log()}], "normalizer": [{}]}


def test_by_hand() -> None:
    place = places(0).as_queries()
    s = torch.tensor([0.0, log(3.0)]).view(1, 1, 1, 2)
    changed = AdaptiveWeight().modify({"log_a": torch.tensor([log(2.0)])}, s, place, place, torch.tensor(0))
    assert changed.exp().flatten().tolist() == pytest.approx([3.0, 5.0])
    assert changed.softmax(-1).flatten().tolist() == pytest.approx([3 / 8, 5 / 8])  # both sides of the fraction grow


def test_numerator_and_denominator_of_the_definition() -> None:
    spec = attention("heads=2, mask=causal, scores=adaptive_weight(per=distance, length=3)")
    q, k, v = operands(sizes(spec), 5)
    a = torch.tensor([[0.5, 1.0, 2.0], [3.0, 0.1, 0.7]], dtype=torch.float64)
    output = attend(spec, q, k, v, params=with_weight(a)).output
    distance = torch.arange(5)[:, None] - torch.arange(5)
    top = ((q @ k.mT / 2).exp() + a[:, distance.abs().clamp(max=2)]) * (distance >= 0)
    assert torch.allclose(output, top / top.sum(-1, keepdim=True) @ v, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_number_is_a_mixture_of_softmax_and_the_mean_of_what_is_seen(dtype: torch.dtype) -> None:
    spec = attention("heads=2, mask=causal, scores=adaptive_weight")
    q, k, v = operands(sizes(spec), 6, dtype=dtype)
    a = torch.tensor([0.4, 3.0], dtype=dtype)
    output = attend(spec, q, k, v, params=with_weight(a)).output
    plain = attend("heads=2, mask=causal", q, k, v, wanted=frozenset({"output", "lse"}))
    lse = plain.extra["lse"]
    assert isinstance(lse, torch.Tensor)
    n = torch.arange(1, 7, dtype=dtype)
    share = (n * a[:, None] / (lse.exp() + n * a[:, None]))[..., None]
    mean = v.cumsum(2) / n[:, None]
    assert torch.allclose(
        output, (1 - share) * plain.output + share * mean, atol=1e-12 if dtype.itemsize == 8 else 2e-6
    )


def test_none_is_plain_and_much_is_the_mean() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    spec = "heads=2, scores=adaptive_weight"
    none = attend(spec, q, k, v, params=with_weight(torch.full((2,), 1e-30, dtype=torch.float64))).output
    assert torch.allclose(none, attend("heads=2", q, k, v).output, atol=1e-14)
    much = attend(spec, q, k, v, params=with_weight(torch.full((2,), 1e30, dtype=torch.float64))).output
    assert torch.allclose(much, v.mean(2, keepdim=True).expand_as(v), atol=1e-14)


def test_it_begins_at_initial_and_learns() -> None:
    spec = attention("heads=2, mask=causal, scores=adaptive_weight(initial=0.25)")
    declared = spec.scores[0].parameters(sizes(spec))["log_a"]
    made = torch.zeros(declared.shape)
    declared.init(made)
    assert made.exp().tolist() == pytest.approx([0.25, 0.25])
    q, k, v = operands(sizes(spec), 4)
    params = parameters(spec, sizes(spec))
    (gradient,) = torch.autograd.grad(attend(spec, q, k, v, params=params).output.sum(), params["scores"][0]["log_a"])
    assert (gradient != 0).all()


def test_fields_and_cross_attention() -> None:
    with pytest.raises(SpecError, match="per=distance needs length"):
        AdaptiveWeight(per="distance")
    with pytest.raises(SpecError, match="length=3 counts distances"):
        AdaptiveWeight(length=3)
    with pytest.raises(SpecError, match=r"adaptive_weight.initial: .*got 0"):
        AdaptiveWeight(initial=0)
    attention("heads=2, scores=adaptive_weight").check_cross()
    with pytest.raises(SpecError, match="no common order of queries and keys: scores=adaptive_weight"):
        attention("heads=2, scores=adaptive_weight(per=distance, length=3)").check_cross()
