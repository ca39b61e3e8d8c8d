from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.soft_cap import SoftCap
from kernels.attending import attend, operands, places, sizes


def test_by_hand() -> None:
    place = places(0).as_queries()
    s = torch.tensor([0.0, 2.0, -1000.0])
    capped = SoftCap(cap=2.0).modify({}, s, place, place, torch.tensor(0)).flatten()
    assert capped.tolist() == pytest.approx([0.0, 2 * 0.761594156, -2.0])


def test_a_high_cap_is_no_cap_and_a_low_one_flattens() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    plain = attend("heads=2", q, k, v).output
    assert torch.allclose(attend("heads=2, scores=soft_cap(1e6)", q, k, v).output, plain, atol=1e-9)
    flat = attend("heads=2, scores=soft_cap(1e-9)", q, k, v).output
    assert torch.allclose(flat, v.mean(2, keepdim=True).expand_as(v), atol=1e-8)


def test_equals_gemma2() -> None:
    gemma = pytest.importorskip("transformers.models.gemma2.modeling_gemma2")
    q, k, v = (3 * t.detach() for t in operands(sizes(attention("heads=4/2")), 5))
    hidden = torch.zeros(1, 1, 5, 5, dtype=torch.float64).masked_fill(torch.ones(5, 5).triu(1) > 0, -1e30)
    module = SimpleNamespace(num_key_value_groups=2, training=False, head_dim=4)
    theirs, _ = gemma.eager_attention_forward(module, q, k, v, hidden, scaling=0.5, softcap=1.5)
    ours = attend("heads=4/2, mask=causal, scores=soft_cap(1.5)", q, k, v).output
    assert torch.allclose(ours.transpose(1, 2), theirs, atol=1e-6)  # theirs normalises in float32


def test_must_be_positive() -> None:
    with pytest.raises(SpecError, match=r"soft_cap.cap: .*got 0"):
        SoftCap(cap=0.0)
