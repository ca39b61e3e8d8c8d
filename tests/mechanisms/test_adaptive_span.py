from __future__ import annotations

from math import log

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention, layer
from attentune.mechanisms.adaptive_span import AdaptiveSpan
from attentune.models.build import build
from attentune.spec.model import ModelSpec
from kernels.attending import SlotTensors, attend, operands, places, sizes


def logit(share: float) -> float:
    return log(share / (1 - share))


def with_spans(*shares: float) -> SlotTensors:
    a = torch.tensor([logit(share) for share in shares], dtype=torch.float64, requires_grad=True)
    return {"heads": [{}], "scores": [{"a": a}], "normalizer": [{}]}


def test_the_mask_by_hand() -> None:
    query, key = places(8).as_queries(), places(8, 6, 5, 4, 3, 2).as_keys()
    a = torch.tensor([logit(0.5)])  # z = 2: full up to distance 2, then 3/4, 1/2, 1/4, nothing
    s = AdaptiveSpan(span=4, ramp=4).modify({"a": a}, torch.zeros(1, 1, 1, 6), query, key, torch.tensor(0))
    assert s.exp().flatten().tolist() == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.25, 0.0], abs=1e-6)


def test_weights_are_the_papers_softmax_times_mask_renormalised() -> None:
    spec = attention("heads=2, mask=causal, scores=adaptive_span(4, ramp=2)")
    q, k, v = operands(sizes(spec), 7)
    output = attend(spec, q, k, v, params=with_spans(0.3, 0.6)).output
    distance = torch.arange(7)[:, None] - torch.arange(7)
    z = torch.tensor([1.2, 2.4], dtype=torch.float64)[:, None, None]
    m = ((2 + z - distance) / 2).clamp(0, 1) * (distance >= 0)
    p = (q @ k.mT / 2).exp() * m
    assert torch.allclose(output, p / p.sum(-1, keepdim=True) @ v, atol=1e-12)


def test_equals_full_attention_at_the_largest_span_and_a_window_at_the_smallest() -> None:
    q, k, v = operands(sizes(attention("heads=1")), 6)
    plain = attend("heads=1, mask=causal", q, k, v).output
    widest = attend("heads=1, mask=causal, scores=adaptive_span(6)", q, k, v, params=with_spans(1 - 1e-15)).output
    assert torch.allclose(widest, plain, atol=1e-14)
    spec = "heads=1, mask=causal, scores=adaptive_span(6, ramp=1)"
    own = attend(spec, q, k, v, params=with_spans(1e-12)).output
    assert torch.allclose(own, v, atol=1e-9)  # distance 0 alone is in reach


def test_the_penalty_is_the_mean_span_in_tokens() -> None:
    value, dims = AdaptiveSpan(span=100, penalty=0.01), sizes(attention("heads=2"))
    a = torch.tensor([logit(0.2), logit(0.6)], dtype=torch.float64, requires_grad=True)
    losses = value.losses({"a": a}, dims)
    assert list(losses) == ["span"]
    assert losses["span"].item() == pytest.approx(0.01 * 40)
    (gradient,) = torch.autograd.grad(losses["span"], a)  # dz / da = span x share x (1 - share), half for each head
    assert gradient.tolist() == pytest.approx([0.5 * 0.16, 0.5 * 0.24])
    assert AdaptiveSpan(span=100, penalty=0).losses({"a": a}, dims) == {}
    declared = AdaptiveSpan(span=100, initial=0.25).parameters(dims)["a"]
    made = torch.zeros(declared.shape)
    declared.init(made)
    assert AdaptiveSpan(span=100).reach({"a": made}).tolist() == pytest.approx([25.0, 25.0])


@pytest.mark.parametrize("later", ["temperature", "scale(0.5)"])
def test_keys_out_of_reach_give_no_gradient_and_no_nan_whatever_factor_comes_later(later: str) -> None:
    spec = attention(f"heads=1, mask=causal, scores=adaptive_span(2, ramp=1) + {later}")
    q, k, v = operands(sizes(spec), 6, dtype=torch.float32)
    a = torch.tensor([0.0], requires_grad=True)
    own = {name: torch.zeros(p.shape, requires_grad=True) for name, p in spec.scores[1].parameters(sizes(spec)).items()}
    params: SlotTensors = {"heads": [{}], "scores": [{"a": a}, own], "normalizer": [{}]}
    output = attend(spec, q, k, v, params=params).output
    gradients = torch.autograd.grad(output[:, :, -1].square().sum(), [q, k, v, a, *own.values()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[1][:, :, :4] == 0).all()  # z = 1 and m = 0 from distance 2 on
    assert (gradients[1][:, :, 4:] != 0).all()


def test_the_span_learns_while_a_key_fades() -> None:
    spec = attention("heads=1, mask=causal, scores=adaptive_span(4, ramp=4)")
    q, k, v = (t.detach() for t in operands(sizes(spec), 6))

    def output(a: torch.Tensor) -> torch.Tensor:
        return attend(spec, q, k, v, params={"heads": [{}], "scores": [{"a": a}], "normalizer": [{}]}).output

    a = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (a,))
    assert torch.autograd.grad(output(a).square().sum(), a)[0] != 0


def test_a_model_hands_on_the_penalties_of_its_layers() -> None:
    chosen = layer("heads=2, mask=causal, scores=adaptive_span(8, penalty=0.5, initial=0.25)")
    model = build(ModelSpec(vocab_size=5, width=8, depth=3, layers=(chosen,)))
    losses = model(torch.tensor([[1, 2, 3]])).losses
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx({"adaptive_span.span": 3 * 0.5 * 2.0})


def test_errors() -> None:
    with pytest.raises(SpecError, match=r"adaptive_span.span is required"):
        AdaptiveSpan()  # type: ignore[call-arg]
    with pytest.raises(SpecError, match=r"adaptive_span.initial: .*got 1"):
        AdaptiveSpan(span=4, initial=1.0)
    with pytest.raises(SpecError, match="no common order of queries and keys: scores=adaptive_span"):
        attention("heads=2, scores=adaptive_span(4)").check_cross()


def test_no_later_score_may_bring_back_what_is_out_of_reach() -> None:
    with pytest.raises(SpecError, match=r"scores=adaptive_span must stand last: soft_cap would bring its keys back"):
        attention("heads=2, mask=causal, scores=adaptive_span(8) + soft_cap(3.0)")
    assert len(attention("heads=2, mask=causal, scores=soft_cap(3.0) + adaptive_span(8) + qk_norm").scores) == 3
