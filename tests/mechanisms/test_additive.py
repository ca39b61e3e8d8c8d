from __future__ import annotations

from math import tanh

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.additive import Additive
from kernels.attending import sizes


def test_one_column_by_hand() -> None:
    dims = sizes(attention("heads=1, similarity=additive"), head_width=1)
    params = {"w": torch.full((1, 1, 1), 3.0), "u": torch.full((1, 1, 1), -1.0), "a": torch.full((1, 1), 2.0)}
    s = Additive().scores(params, dims, torch.tensor([[[[0.5]]]]), torch.tensor([[[[0.25], [1.5]]]]))
    assert s.flatten().tolist() == pytest.approx([2 * tanh(1.25), 2 * tanh(0.0)])


def test_every_head_has_a_network_of_its_own() -> None:
    dims = sizes(attention("heads=2, similarity=additive"), head_width=3)
    params = {name: torch.randn(p.shape, dtype=torch.float64) for name, p in Additive().parameters(dims).items()}
    q, k = torch.randn(1, 2, 4, 3, dtype=torch.float64), torch.randn(1, 2, 5, 3, dtype=torch.float64)
    s = Additive().scores(params, dims, q, k)
    for h in range(2):
        for i in range(4):
            for j in range(5):
                hidden = torch.tanh(params["w"][h] @ q[0, h, i] + params["u"][h] @ k[0, h, j])
                assert torch.allclose(s[0, h, i, j], hidden @ params["a"][h], atol=1e-12)


def test_rotary_is_refused_because_it_needs_an_inner_product() -> None:
    with pytest.raises(SpecError, match="makes relative positions only of what depends on their lengths"):
        attention("heads=2, similarity=additive, position=rotary")
