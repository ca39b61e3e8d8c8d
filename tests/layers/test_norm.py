from __future__ import annotations

import pytest
import torch

from attentune.layers.norm import BatchNorm


@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_in_bfloat16_is_summed_in_float32(masked: bool) -> None:
    x = (torch.randn(40, 60, 4, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    valid = torch.ones(40, 60, dtype=torch.bool) if masked else None
    low, exact = BatchNorm(4).bfloat16().train(), BatchNorm(4).double().train()
    y = low(x, valid)
    assert y.dtype is torch.bfloat16
    assert torch.allclose(y.double(), exact(x.double(), valid), atol=0.02)
    assert low.mean.dtype is torch.bfloat16
    assert torch.allclose(low.mean.double(), exact.mean, rtol=1e-2)
    assert torch.allclose(low.var.double(), exact.var, rtol=1e-2)
