"""Kernels are chosen when a module is bound, and chosen anew when it moves."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import KernelError
from attentune.kernels.layout import Layout, LayoutKind
from attentune.layers.attention import Attention
from attentune.mechanisms import attention


def choices(module: Attention) -> set[str]:
    return {plan.choice for plan in module.plans.values()}


def test_chooses_what_the_attention_allows() -> None:
    assert choices(Attention(attention("heads=2, mask=causal"), width=8)) <= {"sdpa", "blocked"}
    sparse = Attention(attention("heads=2, mask=causal, normalizer=entmax15"), width=8)
    assert choices(sparse) <= {"reference", "blocked"}


def test_dropout_is_planned_apart() -> None:
    module = Attention(attention("heads=2, mask=causal"), width=8, dropout=0.5)
    chosen = {dropped: plan.choice for (_, _, dropped, bucket), plan in module.plans.items() if bucket == 0}
    assert chosen[False] in ("sdpa", "blocked")
    assert chosen[True] in ("reference", "blocked")  # PyTorch's kernel has no dropout on a CPU


@pytest.mark.parametrize("move", [lambda m: m.double(), lambda m: m.to(torch.float64)])
def test_another_dtype_binds_anew(move) -> None:  # type: ignore[no-untyped-def]
    module = Attention(attention("heads=2, mask=causal"), width=8)
    assert move(module) is module
    assert {plan.request.dtype for plan in module.plans.values()} == {torch.float64}
    assert module(torch.ones(1, 3, 8, dtype=torch.float64), Layout.plain(3)).y.dtype is torch.float64


def test_another_device_binds_anew_inside_a_larger_module() -> None:
    module = Attention(attention("heads=2, mask=causal"), width=8)
    torch.nn.Sequential(module).to("meta")
    assert {plan.request.device for plan in module.plans.values()} == {"meta"}


def test_moving_to_where_it_is_keeps_the_plans() -> None:
    module = Attention(attention("heads=2, mask=causal"), width=8)
    before = module.plans
    module.to("cpu")
    assert module.plans is before


def test_a_kernel_asked_for_by_name_stays_chosen() -> None:
    module = Attention(attention("heads=2, mask=causal"), width=8)
    module.bind(kernel="reference")
    module.double()
    assert choices(module) == {"reference"}


def test_a_kernel_that_cannot_is_refused_with_all_reasons() -> None:
    module = Attention(attention("heads=2, mask=causal, normalizer=entmax15, scores=soft_cap(3)"), width=8)
    with pytest.raises(KernelError, match=r"soft_cap.*entmax15"):
        module.bind(kernel="sdpa")
    with pytest.raises(KernelError, match="did you mean 'sdpa'"):
        module.bind(kernel="sdp")


def test_an_input_from_another_device_says_what_to_do() -> None:
    module = Attention(attention("heads=2, mask=causal"), width=8)
    module.device = "cuda"
    with pytest.raises(KernelError, match="chosen for cuda, the input is on cpu"):
        module(torch.ones(1, 3, 8), Layout.plain(3))


def test_lengths_beyond_the_last_bucket_are_planned() -> None:
    module = Attention(attention("heads=2, mask=causal"), width=8)
    lengths = {plan.request.query_length for (layout, *_), plan in module.plans.items() if layout is LayoutKind.PLAIN}
    assert lengths == {32, 256, 2048, 16384, 32768}  # the first of many rows
