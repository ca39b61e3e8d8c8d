"""Compiled FlexAttention on a CPU: forward alone, against the float64 reference. Each case costs a compilation.

Run by test_flex.py, in a process without run-time checks of shapes.
"""

from __future__ import annotations

import pytest
import torch

from attentune.mechanisms import attention
from attentune.verification.kernel_checks import KernelCase, exact, padding_is_inert

RICH = "heads=4/2, mask=causal & (window(3) | sink(1)), position=alibi, scores=temperature + soft_cap(2.0)"
NOTHING_SEEN = "heads=2, mask=~causal, position=alibi"
LEARNED = "heads=2, mask=causal, position=t5(buckets=6, max_distance=9)"
TEXTS = [
    "heads=2",
    "heads=2, mask=causal | prefix(3)",
    "heads=multi_query(3), mask=causal",
    "heads=2, mask=window(3), similarity=scaled_dot(scale=0.7)",
    LEARNED,
    NOTHING_SEEN,
    RICH,
]
LAYOUTS = ["plain", "padded", "packed", "cached"]
DTYPES = [torch.float32, torch.bfloat16]
TOGETHER = RICH.replace("alibi", "t5(buckets=6, max_distance=9)")
QUICK = [(TOGETHER, "packed", torch.float32), (NOTHING_SEEN, "cached", torch.float32)]
EVERY = [(text, layout, dtype) for text in TEXTS for layout in LAYOUTS for dtype in DTYPES]


def check(text: str, layout: str, dtype: torch.dtype) -> None:
    case = KernelCase(attention(text), "flex", dtype, layout, forward_only=True)
    assert case.reasons() == ()
    broken = [str(finding) for finding in exact(case) if finding.broken]
    if layout in ("padded", "packed"):
        broken += [str(finding) for finding in padding_is_inert(case) if finding.broken]
    assert broken == []


@pytest.mark.parametrize(("text", "layout", "dtype"), QUICK, ids=str)
def test_some(text: str, layout: str, dtype: torch.dtype) -> None:
    check(text, layout, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "layout", "dtype"), EVERY, ids=str)
def test_every(text: str, layout: str, dtype: torch.dtype) -> None:
    check(text, layout, dtype)
