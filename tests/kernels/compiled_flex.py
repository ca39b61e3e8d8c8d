"""Compiled FlexAttention on a CPU: forward alone, against the float64 reference. Each case costs a compilation.

Run by test_flex.py, in a process without run-time checks of shapes.
"""

from __future__ import annotations

import pytest
import torch

from attentune.kernels import KERNELS, Call
from attentune.mechanisms import attention
from kernels.attending import operands, parameters, sizes
from kernels.test_contract import LENGTH, NEWEST, make_layout, make_request

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
QUICK = [(RICH, "padded", torch.float32), (NOTHING_SEEN, "cached", torch.float32), (LEARNED, "packed", torch.float32)]
EVERY = [(text, layout, dtype) for text in TEXTS for layout in LAYOUTS for dtype in DTYPES]


def check(text: str, layout: str, dtype: torch.dtype) -> None:
    spec = attention(text)
    dims = sizes(spec)
    assert KERNELS["flex"].supports(make_request(spec, layout, dtype, needs_grad=False)) == ()
    q, k, v = operands(dims, NEWEST if layout == "cached" else LENGTH, LENGTH, dtype=torch.bfloat16)
    params = parameters(spec, dims, torch.bfloat16)

    def run(kernel: str, kind: torch.dtype) -> torch.Tensor:
        own = {  # learned tensors keep their wish for a gradient: a module's do, also where none is computed
            slot: [{name: t.detach().to(kind).requires_grad_() for name, t in one.items()} for one in held]
            for slot, held in params.items()
        }
        made = make_layout(layout)
        inputs = [t.detach().to(kind) for t in (q, k, v)]
        if kernel == "flex" and made.key.valid is not None:
            inputs = [t.masked_fill(~made.key.valid[:, None, :, None], float("nan")) for t in inputs]
        with torch.no_grad():
            return KERNELS[kernel].run(Call(spec, dims, own, *inputs, made)).output.double()

    exact, plain, found = run("reference", torch.float64), run("reference", dtype), run("flex", dtype)
    allowed = 2 * (plain - exact).abs().max() + 4 * torch.finfo(dtype).eps * exact.abs().max()
    assert (found - exact).abs().max() <= allowed


@pytest.mark.parametrize(("text", "layout", "dtype"), QUICK, ids=str)
def test_some(text: str, layout: str, dtype: torch.dtype) -> None:
    check(text, layout, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "layout", "dtype"), EVERY, ids=str)
def test_every(text: str, layout: str, dtype: torch.dtype) -> None:
    check(text, layout, dtype)
