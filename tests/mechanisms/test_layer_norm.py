from __future__ import annotations

import pytest
import torch
from torch import nn

from attentune.mechanisms.layer_norm import LayerNormBranch
from mechanisms.mixing import dims, random_parameters


def test_by_hand() -> None:
    params = {"gain": torch.tensor([1.0, 1.0, 2.0]), "bias": torch.tensor([0.0, 0.0, 1.0])}
    y, state = LayerNormBranch().mix(params, torch.tensor([[[1.0, 2.0, 6.0]]]), {}, None, None)
    # mean 3, variance (4 + 1 + 9) / 3 = 4.666667, root 2.160247
    assert y.flatten().tolist() == pytest.approx([-0.925820, -0.462910, 3.777460], abs=1e-5)
    assert state == {}


def test_equals_the_module_of_torch_in_outputs_and_gradients() -> None:
    params = random_parameters(LayerNormBranch(), 5)
    theirs = nn.LayerNorm(5, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(params["gain"])
        theirs.bias.copy_(params["bias"])
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y, _ = LayerNormBranch().mix(params, x, {}, None, None)
    expected = theirs(x)
    assert torch.allclose(y, expected, atol=1e-12)
    mine = torch.autograd.grad(y.square().sum(), [x, *params.values()])
    other = torch.autograd.grad(expected.square().sum(), [x, theirs.weight, theirs.bias])
    for one, two in zip(mine, other, strict=True):
        assert torch.allclose(one, two, atol=1e-11)


def test_a_bias_where_the_model_has_one() -> None:
    assert LayerNormBranch().parameters(dims(4)).keys() == {"gain"}
    assert LayerNormBranch().parameters(dims(4, bias=True)).keys() == {"gain", "bias"}
