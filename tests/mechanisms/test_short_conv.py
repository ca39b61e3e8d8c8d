from __future__ import annotations

import pytest
import torch
from torch import nn

from attentune.errors import SpecError
from attentune.mechanisms._convolution import _taps
from attentune.mechanisms.short_conv import ShortConv
from mechanisms.mixing import begin, dims, random_parameters


def test_four_tokens_by_hand() -> None:
    params = {"weight": torch.tensor([[1.0, 10.0, 100.0]])}  # two before, one before, its own
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)
    state = begin(ShortConv(), 1, 1, dtype=torch.float32)
    y, after = ShortConv().mix(params, x, state, None, None)
    assert y.flatten().tolist() == [100.0, 210.0, 321.0, 432.0]
    assert after["past"].flatten().tolist() == [3.0, 4.0]
    valid = torch.tensor([[True, False, True, True]])
    y, after = ShortConv().mix(params, x, state, valid, None)
    assert y.flatten().tolist() == [100.0, 0.0, 310.0, 431.0]
    starts = torch.tensor([[False, False, True, False]])
    y, after = ShortConv().mix(params, x[:, :3], state, None, starts[:, :3])
    assert y.flatten().tolist() == [100.0, 210.0, 300.0]
    assert after["past"].flatten().tolist() == [0.0, 3.0]


@pytest.mark.parametrize("form", ShortConv.forms)
def test_equals_the_module_of_torch_in_outputs_and_gradients(form: str) -> None:
    mixer = ShortConv(size=4, activation="silu")
    params = random_parameters(mixer, 3)
    theirs = nn.Conv1d(3, 3, 4, groups=3, padding=3, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(params["weight"][:, None])
        assert theirs.bias is not None
        theirs.bias.copy_(params["bias"])
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.silu(theirs(x.transpose(1, 2))[..., :9].transpose(1, 2))
    y, _ = mixer.mix(params, x, begin(mixer, 3, 2), None, None, form)
    assert torch.allclose(y, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    mine = torch.autograd.grad((y * weights).sum(), [x, *params.values()])
    other = torch.autograd.grad((expected * weights).sum(), [x, theirs.weight, theirs.bias])
    for one, two in zip(mine, other, strict=True):
        assert torch.allclose(one, two.view_as(one), atol=1e-12)


@pytest.mark.parametrize("documents", [False, True])
def test_own_backward_by_finite_differences(documents: bool) -> None:
    row = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    document = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 3]]) if documents else None
    assert torch.autograd.gradcheck(lambda *t: _taps(*t, document), (row, weight))
    torch.library.opcheck(_taps, (row, weight, document))


def test_sizes() -> None:
    assert ShortConv(size=5).parameters(dims(4))["weight"].shape == (4, 5)
    assert ShortConv().mix(
        {"weight": torch.ones(1, 3)}, torch.ones(1, 1, 1), {"past": torch.ones(1, 2, 1)}, None, None
    )[0].item() == pytest.approx(3.0)
    with pytest.raises(SpecError, match=r"short_conv\.size: input should be greater than 0, got 0"):
        ShortConv(size=0)
