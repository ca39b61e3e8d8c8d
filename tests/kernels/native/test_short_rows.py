"""Rows that fit one tile, which the core computes by a path of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attentune.kernels.native.problem import stored
from kernels.native.cases import Case, compare, needs_core
from kernels.native.test_native import SETS, STEPS, _has

pytestmark = needs_core


def lengths(*real: int, keys: int) -> Tensor:
    """Which keys are there, [rows 1 K]."""
    return torch.arange(keys) < torch.tensor(real)[:, None, None]


CASES = [
    Case(queries=14, keys=14, width=32, value_width=32, visible=lambda d: torch.ones_like(d, dtype=torch.bool)),
    Case(queries=14, keys=14, width=32, value_width=32, visible=lambda d: (d >= 0) & lengths(14, 9, keys=14)),
    Case(queries=9, keys=17, visible=lambda d: lengths(17, 3, keys=17).expand(2, 9, 17)),
    Case(queries=17, keys=5, width=24, value_width=40, visible=lambda d: lengths(5, 0, keys=5).expand(2, 17, 5)),
    Case(queries=33, keys=33, heads=4, groups=2, extra=True),
    Case(queries=64, keys=64, width=64, value_width=48, heads=3, groups=1),
    Case(queries=50, keys=61, visible=lambda d: torch.rand(2, 50, 61) < 0.1, extra=True),
    Case(queries=40, keys=40, steps=("add", "cap", "log", "multiply", "constant", "term", "cap"), window=11),
    Case(queries=20, keys=30, kind="sigmoid", visible=lambda d: lengths(12, 30, keys=30).expand(2, 20, 30)),
    Case(queries=30, keys=20, kind="relu2", visible=lambda d: torch.ones_like(d, dtype=torch.bool)),
    Case(queries=2, keys=7),
]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_every_instruction_set(case: Case, dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not _has(name):
        pytest.skip(f"this machine has no {name}")
    monkeypatch.setenv("ATTENTUNE_ISA", name)
    compare(Case(**{**vars(case), "dtype": dtype}))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "relu2"])
@pytest.mark.parametrize("step", STEPS)
def test_every_step(step: str, kind: str) -> None:
    compare(Case(steps=(step,), kind=kind, queries=21, keys=30, window=9, dtype=torch.float64))
    compare(
        Case(steps=(step, "cap"), kind=kind, queries=10, keys=10, visible=lambda d: lengths(10, 6, keys=10) & (d > -9))
    )


def test_bfloat16_is_read_and_written_where_it_is() -> None:
    q, k, long = (torch.zeros(1, 1, tokens, 8, dtype=torch.bfloat16) for tokens in (64, 64, 65))
    assert stored(q, k) is torch.bfloat16
    assert stored(q, long) is stored(long, k) is stored(q.half(), k.half()) is torch.float32
    made, leaves = Case(queries=14, keys=14, dtype=torch.bfloat16).made().leaves(torch.bfloat16)
    output = made.native().output
    assert output.dtype is torch.bfloat16
    assert output.transpose(1, 2).is_contiguous(), "as the projection reads it"
    dq, *_ = torch.autograd.grad(output.float().sum(), leaves)
    assert dq.dtype is torch.bfloat16
    assert dq.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_dropout_is_the_same_both_ways(kind: str) -> None:
    made, leaves = Case(batch=1, queries=6, keys=7, width=3, value_width=2, kind=kind).made().leaves(torch.float64)
    assert torch.autograd.gradcheck(lambda *_: made.native(dropout=0.4, seed=7).output, leaves)
    dropped = made.native(dropout=0.4, seed=7).output
    assert not torch.equal(dropped, made.native().output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("holes", [False, True])
def test_hidden_places_may_hold_anything(holes: bool, dtype: torch.dtype) -> None:
    hidden = torch.arange(20) % 7 == 3 if holes else torch.arange(20) >= 13
    made, leaves = (
        Case(groups=1, queries=20, keys=20, visible=lambda d: ~(hidden | hidden[:, None]) & (d < 99))
        .made()
        .leaves(dtype)
    )
    given = torch.randn(2, 2, 20, 16, dtype=dtype)
    clean_output = made.native().output
    clean = torch.autograd.grad(clean_output, leaves, given)
    with torch.no_grad():
        for x in leaves:
            x[:, :, hidden] = float("nan")
    output = made.native().output
    assert torch.equal(output, clean_output)
    assert not output[:, :, hidden].any()
    found = torch.autograd.grad(output, leaves, given.masked_fill(hidden[:, None], float("nan")))
    for ours, truth in zip(found, clean, strict=True):
        assert torch.equal(ours, truth)
        assert not ours[:, :, hidden].any()
