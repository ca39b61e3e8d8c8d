from __future__ import annotations

import pytest
import torch
from torch import nn

from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from attentune.mechanisms.qk_norm import QKNorm
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=2)
    gains = {"q_gain": torch.tensor([1.0, 2.0]), "k_gain": torch.ones(2)}
    q, k = QKNorm().operands(gains, dims, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[-5.0, 5.0]]]]))
    rms = 12.5**0.5
    assert q.flatten().tolist() == pytest.approx([3 / rms, 8 / rms], rel=1e-5)
    assert k.flatten().tolist() == pytest.approx([-1.0, 1.0], rel=1e-5)


def test_equals_the_module_of_torch_before_plain_attention() -> None:
    layer = Attention(attention("heads=2, scores=qk_norm, mask=causal"), width=8).double()
    norm = nn.RMSNorm(4, eps=1e-6, dtype=torch.float64)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    held = layer.held["heads"][0]
    q, k, v = ((x @ w.T).view(2, 5, 2, 4).transpose(1, 2) for w in held.qkv.split(8))
    o = attend("heads=2, mask=causal", norm(q), norm(k), v).output
    assert torch.allclose(layer(x, Layout.plain(5)).y, o.transpose(1, 2).flatten(2) @ held.out.T, atol=1e-12)


def test_scores_cannot_grow_with_the_operands() -> None:
    spec = attention("heads=2")
    dims = sizes(spec)
    q, k, _ = operands(dims, 3)
    gains = {"q_gain": torch.ones(4, dtype=torch.float64), "k_gain": torch.ones(4, dtype=torch.float64)}
    small, large = (QKNorm().operands(gains, dims, c * q, c * k) for c in (1.0, 1e4))
    for a, b in zip(small, large, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
