from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from attentune.errors import SpecError
from attentune.mechanisms._matrix_state import Tokens, recurrence
from attentune.mechanisms.retention import Retention
from mechanisms.mixing import Tensors, begin, dims, random_parameters


def test_decays_of_the_paper_by_hand() -> None:
    assert [round(torch.tensor(log).exp().item(), 6) for log in Retention(heads=3).log_decays()] == [
        0.96875,  # 31/32
        0.984375,  # 63/64
        0.992188,  # 127/128
    ]


def test_three_tokens_by_hand() -> None:
    one, half = torch.ones(1, 1, 3, 1), torch.tensor(0.5).log().expand(1, 1, 3)
    v = torch.tensor([4.0, 0.0, 1.0]).view(1, 1, 3, 1)
    for form in Retention.forms:
        o, state = recurrence(Tokens(one, one, v, half), torch.zeros(1, 1, 1, 1), form)
        assert o.flatten().tolist() == pytest.approx([4.0, 2.0, 2.0])  # 4, 4 / 2, 4 / 4 + 1
        assert state.item() == pytest.approx(2.0)


def oracle(mixer: Retention, params: Tensors, x: torch.Tensor) -> torch.Tensor:
    """One row by the parallel form of the paper, with complex numbers for the rotation."""
    length, width = x.shape
    heads, d = mixer.heads, width // mixer.heads
    q, k, v = (x @ params["qkv"].T + params["qkv_bias"]).split([width, width, width * mixer.expand], -1)
    place = torch.arange(length, dtype=x.dtype)
    theta = 10000 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    turn = torch.polar(torch.ones(length, d // 2, dtype=x.dtype), place[:, None] * theta)
    outputs = []
    for h in range(heads):
        q_h, k_h = (z[:, h * d : (h + 1) * d] for z in (q, k))
        q_c, k_c = (torch.complex(z[:, : d // 2], z[:, d // 2 :]) * turn for z in (q_h, k_h))
        gap = place[:, None] - place
        decay = torch.where(gap >= 0, (1 - 2.0 ** (-5 - h)) ** gap, 0.0)
        scores = (q_c @ k_c.conj().T).real / d**0.5 * decay
        o = scores @ v.view(length, heads, -1)[:, h]
        outputs.append((o - o.mean(-1, keepdim=True)) / (o.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt())
    normed = torch.cat(outputs, -1) * params["norm"] + params["norm_bias"]
    return (silu(x @ params["gate"].T) * normed) @ params["out"].T + params["out_bias"]


@pytest.mark.parametrize("form", Retention.forms)
@pytest.mark.parametrize("mixer", [Retention(heads=2), Retention(heads=1, expand=2)], ids=["two", "wide"])
def test_by_the_parallel_form_of_the_paper(mixer: Retention, form: str) -> None:
    params = random_parameters(mixer, 8)
    x = torch.randn(1, 67, 8, dtype=torch.float64, requires_grad=True)
    expected = oracle(mixer, params, x[0])
    y, _ = mixer.mix(params, x, begin(mixer, 8, 1), None, None, form)
    assert torch.allclose(y[0], expected, atol=1e-10)
    weights = torch.randn_like(expected)
    mine = torch.autograd.grad((y[0] * weights).sum(), [x, *params.values()])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *params.values()])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


def test_shifting_all_positions_changes_nothing() -> None:
    mixer = Retention(heads=2)
    params, x = random_parameters(mixer, 8), torch.randn(1, 9, 8, dtype=torch.float64)
    y, _ = mixer.mix(params, x, begin(mixer, 8, 1), None, None)
    later = begin(mixer, 8, 1) | {"position": torch.tensor([[1000]])}
    z, state = mixer.mix(params, x, later, None, None)
    assert torch.allclose(y, z, atol=1e-10)
    assert state["position"].item() == 1009


def test_the_norm_takes_the_scale_of_keys_away() -> None:
    mixer = Retention(heads=2)
    params = {name: held.detach() for name, held in random_parameters(mixer, 8, bias=False).items()}
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    y, _ = mixer.mix(params, x, begin(mixer, 8, 1), None, None)
    larger = params | {"qkv": params["qkv"] * torch.tensor([1.0] * 8 + [1e4] * 8 + [1.0] * 8)[:, None].double()}
    z, _ = mixer.mix(larger, x, begin(mixer, 8, 1), None, None)
    assert torch.allclose(y, z, rtol=1e-2, atol=1e-2)  # but for the epsilon of the norm


def test_pairs_of_columns() -> None:
    with pytest.raises(SpecError, match=r"width / heads must be even, got 9 / 3 = 3$"):
        Retention(heads=3).parameters(dims(9))
