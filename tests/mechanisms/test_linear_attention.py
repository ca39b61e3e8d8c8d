from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms.linear_attention import LinearAttention, random_directions
from mechanisms.mixing import Tensors, begin, dims, random_parameters


def projected(params: Tensors, x: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """q, k, v [H T D] of one row, by the plain product."""
    return tuple(
        part.reshape(len(x), heads, -1).transpose(0, 1)
        for part in (x @ params["qkv"].T + params["qkv_bias"]).chunk(3, -1)
    )


def test_two_tokens_by_hand() -> None:
    # q = x, k = 2 x, v = 3 x on one column; elu(z) + 1 = z + 1 for z > 0, exp(z) else
    params = {"qkv": torch.tensor([[1.0], [2.0], [3.0]]), "out": torch.ones(1, 1)}
    y, state = LinearAttention().mix(params, torch.tensor([[[1.0], [-1.0]]]), begin_single(), None, None)
    # f(k) = 3, e^-2 = .135335; v = 3, -3; the first token sees itself alone: 3
    # the second: (3 * 3 - .135335 * 3) / (3 + .135335) = 8.593994 / 3.135335 = 2.741013
    assert y.flatten().tolist() == pytest.approx([3.0, 2.741013], abs=1e-5)
    assert state["s"].flatten().tolist() == pytest.approx([8.593994, 3.135335], abs=1e-5)


def begin_single() -> Tensors:
    return begin(LinearAttention(), 1, 1, dtype=torch.float32)


@pytest.mark.parametrize("form", LinearAttention.forms)
def test_elu_features_by_the_sums_of_the_paper(form: str) -> None:
    mixer = LinearAttention(heads=2)
    params = random_parameters(mixer, 6)
    x = torch.randn(1, 70, 6, dtype=torch.float64)
    q, k, v = projected(params, x[0], 2)
    f = torch.where(q > 0, q + 1, q.exp()), torch.where(k > 0, k + 1, k.exp())
    expected = torch.zeros(2, 70, 3, dtype=torch.float64)
    for h in range(2):
        for i in range(70):
            weights = [f[0][h, i] @ f[1][h, j] for j in range(i + 1)]
            expected[h, i] = sum(w * v[h, j] for j, w in enumerate(weights)) / sum(weights)
    y, _ = mixer.mix(params, x, begin(mixer, 6, 1), None, None, form)
    wanted = expected.transpose(0, 1).flatten(1) @ params["out"].T + params["out_bias"]
    assert torch.allclose(y[0], wanted, atol=1e-12)


def test_weights_are_shares() -> None:
    mixer = LinearAttention(heads=1)
    params = random_parameters(mixer, 4, bias=False)
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    same = {"qkv": torch.cat([params["qkv"][:8], torch.zeros(4, 4, dtype=torch.float64)]), "out": params["out"]}
    same["qkv_bias"] = torch.tensor([0.0] * 8 + [1.0, 2.0, 3.0, 4.0], dtype=torch.float64)  # every value is this one
    y, _ = mixer.mix(same, x, begin(mixer, 4, 1), None, None)
    assert torch.allclose(y, (params["out"] @ same["qkv_bias"][8:]).expand_as(y), atol=1e-12)


@pytest.mark.parametrize("form", LinearAttention.forms)
def test_random_features_by_their_formula(form: str) -> None:
    mixer = LinearAttention(heads=2, features="random", directions=5, seed=7)
    params = random_parameters(mixer, 6)
    x = torch.randn(1, 66, 6, dtype=torch.float64)
    w = random_directions(5, 3, 7, x)
    q, k, v = projected(params, x[0], 2)
    q, k = q / 3**0.25, k / 3**0.25
    f_q, f_k = (torch.exp(z @ w.T - (z**2).sum(-1, keepdim=True) / 2) / 5**0.5 for z in (q, k))
    weights = (f_q @ f_k.transpose(-1, -2)).tril()
    o = weights @ v / weights.sum(-1, keepdim=True)
    y, _ = mixer.mix(params, x, begin(mixer, 6, 1), None, None, form)
    assert torch.allclose(y[0], o.transpose(0, 1).flatten(1) @ params["out"].T + params["out_bias"], atol=1e-11)


def test_random_features_tend_to_softmax_attention() -> None:
    params = random_parameters(LinearAttention(), 4, bias=True)
    x = 0.5 * torch.randn(1, 30, 4, dtype=torch.float64)
    q, k, v = projected(params, x[0], 1)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
    wanted = exact @ params["out"].T + params["out_bias"]
    errors = {}
    for count in (64, 4096):
        errors[count] = 0.0
        for seed in range(5):
            mixer = LinearAttention(features="random", directions=count, seed=seed)
            y, _ = mixer.mix(params, x, begin(mixer, 4, 1), None, None)
            errors[count] += ((y[0] - wanted).norm() / wanted.norm()).item() / 5
    assert errors[4096] < 0.01
    assert errors[4096] < errors[64] / 2  # an exponential has draws far out, so that the root of 64 needs many more


def test_directions_are_orthogonal_in_groups_and_come_from_the_seed_alone() -> None:
    like = torch.zeros((), dtype=torch.float64)
    torch.manual_seed(5)
    w = random_directions(7, 3, 11, like)
    torch.manual_seed(6)
    assert torch.equal(w, random_directions(7, 3, 11, like))
    assert not torch.equal(w, random_directions(7, 3, 12, like))
    for group in w.split(3):
        between = group @ group.T
        assert torch.allclose(between, torch.diag(between.diag()), atol=1e-12)
    many = random_directions(3000, 3, 0, like)
    assert torch.allclose(many.T @ many / 3000, torch.eye(3, dtype=torch.float64), atol=0.1)
    for first in range(3):  # QR alone leaves their signs to its algorithm
        assert many[first::3].mean(0).abs().max() < 0.1
    assert "w" not in LinearAttention(features="random").parameters(dims(4))
    torch.library.opcheck(random_directions, (4, 2, 0, like))


def test_random_features_of_huge_keys_neither_overflow_nor_vanish() -> None:
    mixer = LinearAttention(features="random", directions=16)
    params = {name: held.detach().float() for name, held in random_parameters(mixer, 4).items()}
    small = torch.randn(1, 40, 4)
    growing = small * torch.linspace(0.1, 8.0, 40)[None, :, None]
    _, k, _ = (growing @ params["qkv"].T).chunk(3, -1)
    assert torch.exp(-k.square().sum(-1) / 4).min() == 0  # what a plain exponential would make of it
    for x in (growing, growing.flip(1)):
        leaf = x.clone().requires_grad_()
        y, _ = mixer.mix(params, leaf, begin(mixer, 4, 1, dtype=torch.float32), None, None)
        exact, _ = mixer.mix(
            {n: p.double() for n, p in params.items()}, x.double(), begin(mixer, 4, 1), None, None, "recurrent"
        )
        assert torch.allclose(y.double(), exact, rtol=1e-2, atol=1e-2)
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        assert gradient.isfinite().all()


def test_a_document_of_large_keys_does_not_dim_the_next() -> None:
    mixer = LinearAttention(features="random", directions=16)
    params = {name: held.detach().float() for name, held in random_parameters(mixer, 4).items()}
    loud, quiet = 0.01 * torch.randn(1, 5, 4), 30 * torch.randn(1, 5, 4)  # exp(W k - |k|^2 / 2): large keys are quiet
    starts = torch.tensor([[True] + [False] * 4 + [True] + [False] * 4])
    y, _ = mixer.mix(params, torch.cat([loud, quiet], 1), begin(mixer, 4, 1, dtype=torch.float32), None, starts)
    alone, _ = mixer.mix(params, quiet, begin(mixer, 4, 1, dtype=torch.float32), None, None)
    assert torch.allclose(y[:, 5:], alone, atol=1e-4)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(SpecError, match="linear_attention: heads must divide the width, got heads=3, width=8"):
        LinearAttention(heads=3).parameters(dims(8))
    with pytest.raises(SpecError, match="features"):
        LinearAttention(features="relu")  # type: ignore[arg-type]
