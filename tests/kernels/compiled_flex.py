"""Compiled FlexAttention on a CPU: forward alone, against the float64 reference. Each case costs a compilation.

Run by test_flex.py, in a process without run-time checks of shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from attentune.kernels import Call, Layout, flex
from attentune.mechanisms import attention
from attentune.verification.kernel_checks import KernelCase, exact, padding_is_inert
from kernels.attending import attend, operands, sizes

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


def test_changing_lengths_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, where the code is made for all lengths; here without generating any."""
    torch.compiler.reset()
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        del inputs
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(flex_attention, dynamic=True, backend=count)
    monkeypatch.setattr(flex, "_compiled", lambda dynamic: compiled)
    spec = attention("heads=2, mask=causal & window(50), position=alibi, scores=soft_cap(5.0)")
    for length in (300, 200, 431, 150, 300):
        q, k, v = operands(sizes(spec), length, dtype=torch.float32)
        layout = Layout.packed(torch.arange(length) // torch.tensor([[90], [61]]))
        made = attend(spec, q.detach(), k.detach(), v.detach(), layout=layout, kernel="flex").output
        torch.testing.assert_close(made, attend(spec, q, k, v, layout=layout).output.detach(), atol=1e-5, rtol=1e-4)
    assert len(graphs) == 1


def test_long_rows_make_no_matrix_of_pairs() -> None:
    spec = attention("heads=1, mask=causal & window(200)")
    q, k, v = (one.detach() for one in operands(sizes(spec), 200_000, batch=1, dtype=torch.float32))
    call = Call(spec, sizes(spec), {}, q, k, v, Layout.plain(q.shape[2]))
    blocks = flex._block_mask(call)  # 37 GiB would be asked for all pairs
    assert int(blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum()) < 3 * -(-200_000 // 128)
    assert flex._blind(call) is None


@pytest.mark.slow
@pytest.mark.parametrize(("text", "layout", "dtype"), EVERY, ids=str)
def test_every(text: str, layout: str, dtype: torch.dtype) -> None:
    check(text, layout, dtype)
