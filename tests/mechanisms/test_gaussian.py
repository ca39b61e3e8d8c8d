from __future__ import annotations

from math import exp

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels.layout import Layout, LayoutKind
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.gaussian import Gaussian
from attentune.spec.positions import Positions
from kernels.attending import attend, operands, parameters, sizes


def test_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=2)
    q, k = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 2.0], [4.0, 6.0], [1.0, 0.0]]]])
    assert Gaussian(sigma=1.0).scores({}, dims, q, k).flatten().tolist() == pytest.approx([0.0, -12.5, -2.0])
    assert Gaussian(sigma=5.0).scores({}, dims, q, k).flatten().tolist() == pytest.approx([0.0, -0.5, -0.08])


def test_is_the_kernel_regression_of_nadaraya_and_watson() -> None:
    # one number a token: y(x) = sum_j K((x - x_j) / sigma) y_j / sum_j K((x - x_j) / sigma)
    spec = attention("heads=1, similarity=gaussian(sigma=0.5)")
    x, y = [0.0, 1.0, 3.0], [5.0, -2.0, 4.0]
    q = torch.tensor(x, dtype=torch.float64).view(1, 1, 3, 1)
    output = attend(spec, q, q, torch.tensor(y, dtype=torch.float64).view(1, 1, 3, 1)).output.flatten()
    for i in range(3):
        kernel = [exp(-((x[i] - x_j) ** 2) / (2 * 0.25)) for x_j in x]
        expected = sum(weight * y_j for weight, y_j in zip(kernel, y, strict=True)) / sum(kernel)
        assert output[i].item() == pytest.approx(expected, abs=1e-12)


def test_keys_of_one_length_make_it_the_scaled_dot_product() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 5)
    k = torch.nn.functional.normalize(k, dim=-1)
    ours = attend("heads=2, similarity=gaussian, mask=causal", q, k, v).output
    assert torch.allclose(ours, attend("heads=2, mask=causal", q, k, v).output, atol=1e-12)


def test_each_head_learns_its_width() -> None:
    spec = attention("heads=2, similarity=gaussian(sigma=2.0, learned=true), mask=causal")
    dims = sizes(spec)
    q, k, v = operands(dims, 5)
    params = parameters(spec, dims)
    log_sigma = params["similarity"][0]["log_sigma"]
    s = spec.similarity.scores({"log_sigma": log_sigma}, dims, q, k)
    difference = (q[:, :, :, None] - k[:, :, None]).square().sum(-1)
    for h in range(2):
        assert torch.allclose(s[:, h], -difference[:, h] / (2 * (2 * log_sigma[h].exp()) ** 2), atol=1e-12)
    (gradient,) = torch.autograd.grad(attend(spec, q, k, v, params=params).output.square().sum(), log_sigma)
    assert (gradient != 0).all()


def test_sigma_is_positive() -> None:
    with pytest.raises(SpecError, match=r"gaussian.sigma: .*greater than 0, got -1"):
        Gaussian(sigma=-1.0)


def test_turned_by_rotary_positions_only_their_differences_matter() -> None:
    layer = Attention(attention("heads=2, similarity=gaussian, position=rotary, mask=causal"), width=8).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    far = Positions.arange(6, start=1000)
    near = layer(x, Layout.plain(6)).y
    assert torch.allclose(layer(x, Layout(LayoutKind.PLAIN, far, far)).y, near, atol=1e-9)
    plain = Attention(attention("heads=2, similarity=gaussian, mask=causal"), width=8).double()
    plain.load_state_dict(layer.state_dict())
    assert not torch.allclose(plain(x, Layout.plain(6)).y, near, atol=1e-6)
