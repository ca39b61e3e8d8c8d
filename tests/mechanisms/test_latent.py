from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.layers.state import KeyValueCache, LayerState
from attentune.mechanisms import attention
from attentune.mechanisms.latent import Latent


def test_one_number_by_hand() -> None:
    layer = Attention(attention("heads=latent(1, 1)"), width=1)
    held = layer.held["heads"][0]
    with torch.no_grad():
        for name, number in {"q": 1.0, "down": 2.0, "up_k": 0.5, "up_v": 4.0, "out": 1.0, "norm": 1.0}.items():
            getattr(held, name).fill_(number)
    # x = 3, -5: the normalised latents are 1 and -1, keys .5 and -.5, values 4 and -4
    y = layer(torch.tensor([[[3.0], [-5.0]]]), Layout.plain(2)).y[0, :, 0]
    first, second = torch.tanh(torch.tensor(1.5)), torch.tanh(torch.tensor(-2.5))  # (e^s - e^-s) / (e^s + e^-s)
    assert torch.allclose(y, torch.stack([4 * first, 4 * second]), atol=1e-5)


def test_equals_the_formula_written_out() -> None:
    heads, width, rank, turned = 2, 8, 3, 4
    layer = Attention(attention("heads=latent(2, 3, rotary=4), position=rotary, mask=causal"), width=width).double()
    w = layer.held["heads"][0]
    x = torch.randn(1, 5, width, dtype=torch.float64)
    down = x[0] @ w.down.T
    latent = down[:, :rank]
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    angles = torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotate(columns: torch.Tensor) -> torch.Tensor:
        spun = torch.complex(columns[:, :2], columns[:, 2:]) * turn
        return torch.cat([spun.real, spun.imag], -1)

    outputs = []
    for head in range(heads):
        q = (x[0] @ w.q.T).view(5, heads, 4 + turned)[:, head]
        q = torch.cat([q[:, :4], rotate(q[:, 4:])], -1)
        k = torch.cat([latent @ w.up_k.view(heads, 4, rank)[head].T, rotate(down[:, rank:])], -1)
        s = (q @ k.T / (4 + turned) ** 0.5).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf"))
        outputs.append(s.softmax(-1) @ (latent @ w.up_v.view(heads, 4, rank)[head].T))
    expected = torch.cat(outputs, -1) @ w.out.T
    assert torch.allclose(layer(x, Layout.plain(5)).y[0], expected, atol=1e-12)


def test_the_cache_holds_the_latent_alone() -> None:
    layer = Attention(attention("heads=latent(4, 6, rotary=2), position=rotary, mask=causal"), width=16)
    state = LayerState(cache=KeyValueCache())
    with torch.no_grad():
        layer(torch.randn(1, 5, 16), Layout.plain(5), state=state)
    assert state.cache is not None
    assert {name: tuple(held.shape[1::2]) for name, held in state.cache.buffers.items()} == {
        "latent": (1, 6),
        "rotary_key": (1, 2),
    }
    assert layer.spec.heads.entry_shapes(layer.dims) == {"latent": (1, 6), "rotary_key": (1, 2)}


def test_biases_are_used_where_the_model_has_them() -> None:
    layer = Attention(attention("heads=latent(2, 3)"), width=4, bias=True)
    x = torch.randn(1, 3, 4)
    before = layer(x, Layout.plain(3)).y
    with torch.no_grad():
        layer.held["heads"][0].out_bias.add_(1.0)
    assert torch.allclose(layer(x, Layout.plain(3)).y, before + 1.0, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="rotary columns come in pairs, got rotary=3"):
        Latent(heads=2, rank=4, rotary=3).dims(width=8, source_width=8, depth=1, bias=False, cross=False)
    with pytest.raises(SpecError, match="needs columns to turn"):
        attention("heads=latent(2, 4), position=rotary")
    with pytest.raises(SpecError, match="qk_norm changes whole keys"):
        attention("heads=latent(2, 4), scores=qk_norm")
