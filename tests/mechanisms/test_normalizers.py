"""What every normaliser must do, whichever it is."""

from __future__ import annotations

import pytest
import torch

from attentune.mechanisms import attention, registry
from attentune.spec.slots import Normalizer
from attentune.spec.text import format_value
from attentune.verification.examples import examples
from kernels.attending import parameters, sizes

BY_HAND = [
    "softmax",
    "softmax_off_by_one",
    "learned_sink",
    "sparsemax",
    "entmax15",
    "entmax",
    "entmax(alpha=2, learned=false)",
    "sigmoid",
    "sigmoid(bias=-1.0, learned=true)",
    "relu2",
    "top_k(2)",
]
FOUND = [format_value(value) for kind in registry.kinds("normalizer").values() for value in examples(kind)]
TEXTS = list(dict.fromkeys(BY_HAND + FOUND))
SEEN = torch.tensor([[True, True, False, True, True], [False] * 5, [False, True, False, False, False]])
SUM_TO_ONE = {"softmax", "sparsemax", "entmax15", "entmax", "top_k"}


def made(text: str, dtype: torch.dtype = torch.float64) -> tuple[Normalizer, dict[str, torch.Tensor]]:
    spec = attention(f"heads=2, normalizer={text}")
    return spec.normalizer, parameters(spec, sizes(spec), dtype)["normalizer"][0]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_hidden_has_no_weight_and_no_gradient(text: str) -> None:
    value, params = made(text)
    s = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    p = value.weights(params, s, SEEN)
    assert (p.masked_select(~SEEN) == 0).all()
    assert (p >= 0).all()
    assert (p[..., 0, :].sum(-1) > 0).all()
    gradients = torch.autograd.grad((p * torch.arange(5.0)).sum(), [s, *params.values()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[0].masked_select(~SEEN) == 0).all()
    poisoned = value.weights(params, s.masked_fill(~SEEN, 1e30), SEEN)
    assert torch.equal(poisoned, p)


@pytest.mark.parametrize("text", TEXTS)
def test_a_mask_that_hides_nothing_is_no_mask(text: str) -> None:
    value, params = made(text)
    s = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    p = value.weights(params, s, None)
    assert torch.allclose(value.weights(params, s, torch.ones(1, 1, 3, 5, dtype=torch.bool)), p, atol=1e-15)
    assert torch.allclose(value.weights(params, s, torch.ones(1, 1, 3, 1, dtype=torch.bool)), p, atol=1e-15)
    if value.kind in SUM_TO_ONE:
        assert torch.allclose(p.sum(-1), torch.ones(1, 2, 3, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("text", TEXTS)
def test_hidden_keys_can_be_left_out(text: str) -> None:
    value, params = made(text)
    s = torch.randn(1, 2, 1, 5, dtype=torch.float64)
    kept = SEEN[0].nonzero().flatten()
    assert torch.allclose(
        value.weights(params, s, SEEN[0])[..., kept], value.weights(params, s[..., kept], None), atol=1e-14
    )


@pytest.mark.parametrize("text", TEXTS)
def test_gradients(text: str) -> None:
    value, params = made(text)
    s = torch.randn(1, 2, 3, 5, dtype=torch.float64, requires_grad=True)

    def weights(scores: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return value.weights(dict(zip(params, tensors, strict=True)), scores, SEEN)

    assert torch.autograd.gradcheck(weights, (s, *params.values()))


@pytest.mark.parametrize("text", TEXTS)
def test_large_scores_stay_finite_in_float32(text: str) -> None:
    value, params = made(text, torch.float32)
    s = torch.tensor([1e4, -1e4, 0.0, -1e18, 1e4]).expand(1, 2, 1, 5).clone().requires_grad_()
    p = value.weights(params, s, None)
    gradients = torch.autograd.grad((p * torch.arange(5.0)).sum(), [s, *params.values()])
    assert torch.isfinite(p).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (p[..., [1, 3]] == 0).all()
    assert torch.equal(p[..., 0], p[..., 4])
