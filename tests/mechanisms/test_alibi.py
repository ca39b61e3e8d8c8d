from __future__ import annotations

import pytest
import torch

from attentune.mechanisms import attention
from attentune.mechanisms.alibi import Alibi, slopes
from kernels.attending import attend, operands, places, sizes


def test_slopes_by_hand() -> None:
    assert slopes(8) == [2.0**-h for h in range(1, 9)]
    assert slopes(1) == [2.0**-8]
    assert slopes(6) == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12])
def test_slopes_equal_bloom(heads: int) -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
    assert torch.allclose(torch.tensor(slopes(heads)), theirs.view(heads, 2)[:, 1])


def test_bias_falls_with_distance_on_both_sides() -> None:
    dims = sizes(attention("heads=8"))
    query, key = places(3).as_queries(), places(0, 3, 7).as_keys()
    bias = Alibi().bias({}, dims, query, key, torch.tensor(0))
    assert bias.flatten().tolist() == [-1.5, 0.0, -2.0]


def test_equals_a_bias_by_the_keys_position_alone_under_a_causal_softmax() -> None:
    spec = attention("heads=3, position=alibi, mask=causal")
    q, k, v = operands(sizes(spec), 6)
    rising = torch.tensor(slopes(3), dtype=torch.float64)[:, None, None] * torch.arange(6)
    s = q @ k.mT / 2 + rising
    p = s.masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
    assert torch.allclose(attend(spec, q, k, v).output, p @ v, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 16, 20])
def test_bias_has_the_slope_of_its_head(heads: int) -> None:
    dims = sizes(attention(f"heads={heads}"))
    query, key = places(1).as_queries(), places(0).as_keys()
    bias = Alibi().bias({}, dims, query, key, torch.arange(heads)[:, None, None])
    exact = torch.tensor(slopes(heads), dtype=torch.float64)
    assert torch.allclose(-bias.flatten(), exact, rtol=1e-15, atol=0)
    each = torch.stack([Alibi().bias({}, dims, query, key, torch.tensor(head)).flatten() for head in range(heads)])
    assert torch.allclose(-each.flatten(), exact.float(), rtol=1e-6)  # as a kernel computes one score at a time


@pytest.mark.parametrize("heads", [3, 16])
def test_float64_scores_get_exact_slopes(heads: int) -> None:
    spec = attention(f"heads={heads}, position=alibi, mask=causal")
    q, k, v = operands(sizes(spec), 300, batch=1)
    rising = torch.tensor(slopes(heads), dtype=torch.float64)[:, None, None] * torch.arange(300)
    s = (q @ k.mT / 2 + rising).masked_fill(torch.ones(300, 300, dtype=torch.bool).triu(1), float("-inf"))
    for kernel in ("reference", "sdpa"):
        assert torch.allclose(attend(spec, q, k, v, kernel=kernel).output, s.softmax(-1) @ v, atol=1e-13), kernel
