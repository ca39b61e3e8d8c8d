from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from attentune.errors import SpecError
from attentune.kernels.layout import Layout, LayoutKind
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.cosine import Cosine
from attentune.spec.positions import Positions
from kernels.attending import attend, operands, parameters, sizes


def test_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=2)
    q, k = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[2.0, 0.0], [-4.0, 3.0], [6.0, 8.0], [0.0, 0.0]]]])
    s = Cosine(tau=0.5, learned=False).scores({}, dims, q, k)
    assert s.flatten().tolist() == pytest.approx([1.2, 0.0, 2.0, 0.0])


def test_each_head_learns_its_temperature() -> None:
    dims = sizes(attention("heads=2"), head_width=3)
    q, k = torch.randn(2, 1, 2, 4, 3, dtype=torch.float64).unbind()
    log_tau = torch.tensor([0.0, 2.0]).log1p().double()  # tau of 0.1 and 0.3
    s = Cosine().scores({"log_tau": log_tau}, dims, q, k)
    expected = cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1)
    assert torch.allclose(s[:, 0], expected[:, 0] / 0.1, atol=1e-6)
    assert torch.allclose(s[:, 1], expected[:, 1] / 0.3, atol=1e-6)


def test_how_long_vectors_are_does_not_matter() -> None:
    spec = attention("heads=2, similarity=cosine, mask=causal")
    q, k, v = operands(sizes(spec), 5)
    assert torch.allclose(attend(spec, q, k, v).output, attend(spec, q * 1e6, k * 1e-6, v).output, atol=1e-9)
    s = Cosine(tau=0.1, learned=False).scores({}, sizes(spec), q, k)
    assert s.abs().max() <= 10 + 1e-9


def test_vectors_of_zeros_have_a_gradient() -> None:
    spec = attention("heads=2, similarity=cosine, mask=causal")
    dims = sizes(spec)
    q, k, v = operands(dims, 4)
    params = parameters(spec, dims)
    with torch.no_grad():
        q[:, :, 2], k[:, :, 1] = 0.0, 0.0
    output = attend(spec, q, k, v, params=params).output
    for gradient in torch.autograd.grad(output.square().sum(), [q, k, v, params["similarity"][0]["log_tau"]]):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e6
    # the query of zeros sees its keys equally
    assert torch.allclose(output[:, :, 2], v[:, :, :3].mean(2), atol=1e-12)


def test_tau_is_positive() -> None:
    with pytest.raises(SpecError, match=r"cosine.tau: .*greater than 0, got 0"):
        Cosine(tau=0)


def test_turned_by_rotary_positions_only_their_differences_matter() -> None:
    layer = Attention(attention("heads=2, similarity=cosine, position=rotary, mask=causal"), width=8).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    far = Positions.arange(6, start=1000)
    near = layer(x, Layout.plain(6)).y
    assert torch.allclose(layer(x, Layout(LayoutKind.PLAIN, far, far)).y, near, atol=1e-9)
    plain = Attention(attention("heads=2, similarity=cosine, mask=causal"), width=8).double()
    plain.load_state_dict(layer.state_dict())
    assert not torch.allclose(plain(x, Layout.plain(6)).y, near, atol=1e-6)
