from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.scaled_dot import ScaledDot
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    dims = sizes(attention("heads=1"), head_width=2)
    q, k = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0], [1.0, -1.0]]]])
    assert torch.allclose(ScaledDot().scores({}, dims, q, k), torch.tensor([11.0, -1.0]) / 2**0.5)
    assert ScaledDot(scale=0.5).scores({}, dims, q, k).flatten().tolist() == [5.5, -0.5]


@pytest.mark.parametrize("scale", [None, 0.3])
def test_equals_torch(scale: float | None) -> None:
    spec = attention("heads=2" if scale is None else "heads=2, similarity=scaled_dot(scale=0.3)")
    q, k, v = operands(sizes(spec), 4)
    assert torch.allclose(attend(spec, q, k, v).output, scaled_dot_product_attention(q, k, v, scale=scale), atol=1e-12)


def test_scale_is_positive() -> None:
    with pytest.raises(SpecError, match=r"scaled_dot.scale: .*greater than 0, got -1"):
        ScaledDot(scale=-1.0)
