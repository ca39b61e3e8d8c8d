from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.entmax import Entmax, entmax
from attentune.mechanisms.entmax15 import entmax15
from attentune.mechanisms.sparsemax import sparsemax
from kernels.attending import sizes


def at(alpha: float, s: torch.Tensor) -> torch.Tensor:
    return entmax(s, s.new_tensor(alpha - 1))


def test_golden_numbers() -> None:
    s = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64)
    assert at(2.0, s).tolist() == pytest.approx([0.0, 0.25, 0.75], abs=1e-15)
    assert at(1.5, s).tolist() == pytest.approx([0.0, 0.326, 0.674], abs=5e-4)
    assert at(1.7, torch.zeros(4)).tolist() == [0.25] * 4
    assert at(1.2, torch.tensor([5.0])).tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_equals_the_exact_ones_at_2_and_1_5(spread: float, dtype: torch.dtype) -> None:
    s = spread * torch.randn(6, 33, dtype=dtype)
    error = 1e-14 if dtype is torch.float64 else 2e-6
    assert torch.allclose(at(2.0, s), sparsemax(s), rtol=0, atol=error)
    assert torch.allclose(at(1.5, s), entmax15(s), rtol=0, atol=error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_near_1_the_distance_from_softmax_shrinks_with_alpha_minus_1(dtype: torch.dtype) -> None:
    s = torch.randn(64, 32, dtype=torch.float64)
    p = s.softmax(-1)
    c = -p.log().square() / 2  # the limit of c_j, whose projection is dp / dalpha at alpha = 1
    rate = (p * (c - (p * c).sum(-1, keepdim=True))).abs().max().item()
    assert 1.0 < rate < 2.5
    for e in (1e-2, 1e-3):
        error = (at(1 + e, s.to(dtype)).double() - p).abs().max().item()
        assert error == pytest.approx(rate * e, rel=2 * e if dtype is torch.float64 else 0.02)


@pytest.mark.parametrize("e", [1e-5, 0.02, 0.3, 0.5, 0.8, 0.95])
def test_gradients_to_scores_and_alpha(e: float) -> None:
    s = torch.randn(2, 2, 3, 6, dtype=torch.float64, requires_grad=True)
    beyond_one = torch.tensor([e, 0.4], dtype=torch.float64)[:, None, None].requires_grad_()
    assert torch.autograd.gradcheck(entmax, (s, beyond_one), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("e", [0.3, 0.6])
def test_gradients_of_gradients(e: float) -> None:
    s = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    beyond_one = torch.tensor(e, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(entmax, (s, beyond_one), eps=1e-7, atol=1e-4)


def test_the_gradient_to_alpha_keeps_its_precision_in_float32() -> None:
    s, mixture = torch.randn(8, 16, dtype=torch.float64), torch.randn(8, 16, dtype=torch.float64)
    for e in (1e-4, 0.01, 0.1, 0.9):
        found = []
        for dtype in (torch.float64, torch.float32):
            beyond_one = torch.tensor(e, dtype=dtype, requires_grad=True)
            p = entmax(s.to(dtype), beyond_one)
            found.append(torch.autograd.grad((p * mixture.to(dtype)).sum(), beyond_one)[0].item())
        assert found[1] == pytest.approx(found[0], rel=2e-3, abs=2e-4), e


def test_each_head_has_its_alpha_and_learns_it() -> None:
    value = Entmax(alpha=1.25)
    declared = value.parameters(sizes(attention("heads=2")))["a"]
    a = torch.zeros(declared.shape, dtype=torch.float64)
    declared.init(a)
    assert (1 + torch.sigmoid(a)).tolist() == pytest.approx([1.25, 1.25])
    a[1] = 0.0
    a.requires_grad_()
    s = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64).expand(1, 2, 1, 3)
    p = value.weights({"a": a}, s, None)
    assert torch.allclose(p[0, 1, 0], entmax15(s[0, 1, 0]), atol=1e-14)
    assert p[0, 0, 0, 0] > 0 == p[0, 1, 0, 0]  # the lower alpha keeps what 1.5 drops
    (gradient,) = torch.autograd.grad(p[..., -1].sum(), a)
    assert (gradient > 0).all()  # a larger alpha gives the best key more


def test_alpha_far_beyond_what_a_sigmoid_resolves_stays_finite() -> None:
    for a in (-1e4, 1e4):
        learned = torch.tensor([a], requires_grad=True)
        s = torch.randn(1, 1, 2, 5, requires_grad=True)
        p = Entmax().weights({"a": learned}, s, None)
        exact = s.softmax(-1) if a < 0 else sparsemax(s)
        assert torch.allclose(p, exact, atol=1e-5)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(p[..., 0].sum(), (s, learned)))


def test_fixed_alphas_and_errors() -> None:
    assert Entmax(alpha=2, learned=False).parameters(sizes(attention("heads=2"))) == {}
    s = torch.tensor([[[[-2.0, 0.0, 0.5]]]])
    assert Entmax(alpha=2, learned=False).weights({}, s, None).flatten().tolist() == pytest.approx([0.0, 0.25, 0.75])
    with pytest.raises(SpecError, match=r"a learned alpha begins between 1 and 2, got 2.0; or say learned=false"):
        Entmax(alpha=2.0)
    for wrong in (1.0, 2.1):
        with pytest.raises(SpecError, match=r"entmax.alpha: "):
            Entmax(alpha=wrong, learned=False)
