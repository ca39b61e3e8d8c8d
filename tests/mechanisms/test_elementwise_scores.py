"""What every score that acts on one score at a time must do, whichever it is."""

from __future__ import annotations

import pytest
import torch

from attentune.mechanisms import attention, registry
from attentune.spec.positions import Positions
from attentune.spec.slots import ElementwiseScore
from attentune.spec.text import format_value
from attentune.verification.examples import examples
from kernels.attending import parameters, places, sizes

BY_HAND = [
    "scale(1.5)",
    "temperature",
    "temperature(value=0.5, learned=false)",
    "length_temperature",
    "length_temperature(reference=8, learned=true)",
    "soft_cap(2.0)",
    "learned_bias(3)",
    "learned_bias(3, bidirectional=true)",
    "learned_bias(3, per=position)",
    "adaptive_span(4, ramp=2)",
    "adaptive_weight",
    "adaptive_weight(per=distance, length=3)",
]
KINDS = [value for value in registry.kinds("scores").values() if issubclass(value, ElementwiseScore)]
TEXTS = list(dict.fromkeys(BY_HAND + [format_value(value) for kind in KINDS for value in examples(kind)]))


def made(text: str) -> tuple[ElementwiseScore, dict[str, torch.Tensor]]:
    spec = attention(f"heads=2, scores={text}")
    (value,) = spec.scores
    assert isinstance(value, ElementwiseScore)
    return value, parameters(spec, sizes(spec))["scores"][0]


@pytest.mark.parametrize("text", TEXTS)
def test_one_score_at_a_time_equals_all_at_once(text: str) -> None:
    """Compiled kernels call it with single numbers, mapped over rows, heads, queries and keys."""
    value, params = made(text)
    query, key = places(2, 3, 7), places(0, 1, 2, 3, 7)
    s = torch.randn(2, 2, 3, 5, dtype=torch.float64)
    head = torch.arange(2)
    whole = value.modify(params, s, query.as_queries(), key.as_keys(), head[:, None, None])
    assert whole.shape == s.shape and whole.dtype == s.dtype

    def one(score: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return value.modify(params, score, Positions(i, i), Positions(j, j), h)

    mapped = one
    for axes in ((0, None, None, 0), (0, None, 0, None), (0, 0, None, None), (0, None, None, None)):
        mapped = torch.vmap(mapped, in_dims=axes)
    assert torch.allclose(mapped(s, head, query.position[0], key.position[0]), whole, atol=1e-15)


@pytest.mark.parametrize("text", TEXTS)
def test_gradients(text: str) -> None:
    value, params = made(text)
    place = places(0, 1, 4)
    s = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def modify(scores: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        own = dict(zip(params, tensors, strict=True))
        return value.modify(own, scores, place.as_queries(), place.as_keys(), torch.arange(2)[:, None, None])

    assert torch.autograd.gradcheck(modify, (s, *params.values()))


@pytest.mark.parametrize("text", TEXTS)
def test_padding_before_the_first_token_gives_finite_numbers(text: str) -> None:
    value, params = made(text)
    place = places(-1, 0)
    s = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    found = value.modify(params, s, place.as_queries(), place.as_keys(), torch.arange(2)[:, None, None])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("text", TEXTS)
def test_a_factor_is_what_modify_multiplies_by(text: str) -> None:
    value, params = made(text)
    factor = value.query_factor(params)
    assert (factor is not None) == value.is_factor
    if factor is None:
        return
    factor = torch.as_tensor(factor, dtype=torch.float64).expand(2)
    place = places(3)
    s = torch.randn(1, 2, 1, 1, dtype=torch.float64)
    found = value.modify(params, s, place.as_queries(), place.as_keys(), torch.arange(2)[:, None, None])
    assert torch.allclose(found, s * factor[:, None, None], atol=1e-15)
