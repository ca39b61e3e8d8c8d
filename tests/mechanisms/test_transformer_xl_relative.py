from __future__ import annotations

from math import cos, sin

import pytest
import torch
from torch import Tensor

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.transformer_xl_relative import TransformerXLRelative
from kernels.attending import attend, operands, parameters, places, sizes


def sinusoid(distance: int, width: int) -> Tensor:
    """r_d, number by number."""
    angles = [distance / 10000 ** (2 * m / width) for m in range(width // 2)]
    return torch.tensor([sin(a) for a in angles] + [cos(a) for a in angles], dtype=torch.float64)


def test_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=4)
    u, v = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    w = torch.eye(4)  # the four columns of q + v meet sin d, sin d/100, cos d, cos d/100
    q, k = torch.tensor([[[[2.0, 0.0, 3.0, 5.0]]]]), torch.tensor([[[[7.0, 1.0, 1.0, 1.0], [11.0, 0.0, 0.0, 0.0]]]])
    value = TransformerXLRelative()
    s = value.scores({"u": u, "v": v, "w": w}, dims, q, k, places(6).as_queries(), places(3, 8).as_keys(), 0.5)
    expected = [
        0.5 * (content + 2 * sin(d) + sin(d / 100) + 3 * cos(d) + 5 * cos(d / 100)) for content, d in ((7, 3), (11, -2))
    ]
    assert s.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("mask", "first"), [("causal", 0), ("full", 0), ("causal", 1_000_000)])
def test_equals_a_loop_over_tokens(mask: str, first: int) -> None:
    spec = attention(f"heads=3, position=transformer_xl_relative, mask={mask}")
    dims = sizes(spec)
    q, k, v = operands(dims, 5, batch=1)
    params = parameters(spec, dims)
    own = params["position"][0]
    positions = places(*range(first, first + 5))
    layout = Layout(Layout.plain(5).kind, positions, positions)
    output = attend(spec, q, k, v, params=params, layout=layout).output
    for h in range(3):
        w = own["w"][4 * h : 4 * h + 4]
        for i in range(5):
            seen = range(i + 1) if mask == "causal" else range(5)
            s = torch.stack(
                [
                    (q[0, h, i] + own["u"][h]) @ k[0, h, j]
                    + (q[0, h, i] + own["v"][h]) @ (w @ sinusoid(i - j, dims.width))
                    for j in seen
                ]
            )
            expected = (s / 2).softmax(-1) @ v[0, h, list(seen)]
            assert torch.allclose(output[0, h, i], expected, atol=1e-9 if first else 1e-12)


def test_equals_the_shift_of_the_authors() -> None:
    # their code scores all distances of a row, then shifts row i by i: [K-1 ... 0] becomes i - j
    spec = attention("heads=2, position=transformer_xl_relative, mask=causal")
    dims = sizes(spec)
    q, k, _ = operands(dims, 3, 5, batch=1)  # two tokens of a memory come first
    own = parameters(spec, dims)["position"][0]
    r = torch.stack([sinusoid(distance, dims.width) for distance in range(4, -1, -1)])
    heads = (r @ own["w"].T).view(5, 2, 4)
    ac = torch.einsum("bhid,bhjd->bhij", q + own["u"][:, None], k)
    bd = torch.einsum("bhid,jhd->bhij", q + own["v"][:, None], heads)
    padded = torch.cat([bd.new_zeros(1, 2, 3, 1), bd], -1).view(1, 2, 6, 3)
    shifted = padded[:, :, 1:].reshape(1, 2, 3, 5)
    query, key = places(2, 3, 4).as_queries(), places(0, 1, 2, 3, 4).as_keys()
    found = q @ k.mT * 0.5 + TransformerXLRelative().scores(own, dims, q, k, query, key, 0.5)
    past = torch.ones(3, 5, dtype=torch.bool).tril(2)
    assert torch.allclose(found[..., past], 0.5 * (ac + shifted)[..., past], atol=1e-12)


def test_only_differences_of_positions_matter() -> None:
    spec = attention("heads=2, position=transformer_xl_relative, mask=causal")
    dims = sizes(spec)
    q, k, v = operands(dims, 6)
    params = parameters(spec, dims)
    here, far = (places(*range(first, first + 6)) for first in (0, 1000))
    outputs = [
        attend(spec, q, k, v, params=params, layout=Layout(Layout.plain(6).kind, p, p)).output for p in (here, far)
    ]
    assert torch.allclose(*outputs, atol=1e-11)
    assert not torch.allclose(outputs[0], attend("heads=2, mask=causal", q, k, v).output, atol=1e-2)


def test_every_parameter_learns() -> None:
    spec = attention("heads=2, position=transformer_xl_relative, mask=causal")
    q, k, v = operands(sizes(spec), 6)
    params = parameters(spec, sizes(spec))
    own = params["position"][0]
    output = attend(spec, q, k, v, params=params).output
    for gradient in torch.autograd.grad(output.square().sum(), [own["u"], own["v"], own["w"]]):
        assert gradient.abs().max() > 1e-6


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(SpecError, match="the width must be even, got 3"):
        Attention(attention("heads=1, position=transformer_xl_relative"), width=3)
    with pytest.raises(SpecError, match="position=transformer_xl_relative has no meaning"):
        Attention(attention("heads=2, position=transformer_xl_relative"), width=8, cross=True)
