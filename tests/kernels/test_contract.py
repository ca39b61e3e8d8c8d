"""The contract of every kernel and mechanism: the cases are those of `attentune verify`, one test for a few of them."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from attentune.errors import KernelError
from attentune.kernels import KERNELS, plan
from attentune.mechanisms import registry
from attentune.verification import model_checks
from attentune.verification.kernel_checks import KernelCase
from attentune.verification.proof import verify_item
from attentune.verification.suite import DTYPES, Item, Selection, items
from shape_checks import unchecked

# Differences compute again, twice for each parameter, what was computed with its shapes checked.
model_checks._difference = unchecked(model_checks._difference)
QUICK = Selection(quick=True)
EVERY = Selection()


def grouped(cases: list[Item]) -> list[tuple[str, list[Item]]]:
    """The cases of one mechanism and kernel together."""
    found = groupby(cases, key=lambda item: f"{item.mechanism}-{item.kernel or 'spec'}")
    return [(name, list(held)) for name, held in found]


def once(groups: list[tuple[str, list[Item]]]) -> list[tuple[str, list[Item]]]:
    """Each case the first time that it comes: several mechanisms are shown by one attention."""
    seen: set[object] = set()
    kept = []
    for name, held in groups:
        fresh = [item for item in held if (item.text, item.kernel, item.dtype, item.layout) not in seen]
        seen.update((item.text, item.kernel, item.dtype, item.layout) for item in fresh)
        if fresh:
            kept.append((name, fresh))
    return kept


def check(held: list[Item], selection: Selection) -> None:
    rows = [verify_item(item, selection) for item in held]
    assert [f"{row.worst}\n{row.command}" for row in rows if row.status == "fail"] == []
    assert all(row.reason for row in rows if row.status == "refused")
    assert all(row.checks for row in rows if row.status == "pass")


ALL = list(items(EVERY))
QUICKLY = once(grouped(list(items(QUICK))))
FULLY = once(grouped(ALL))


@pytest.mark.parametrize("held", [held for _, held in QUICKLY], ids=[name for name, _ in QUICKLY])
def test_the_plain_example_of_each_mechanism(held: list[Item]) -> None:
    check([item for item in held if item.dtype is torch.float64 or item.layout == "plain"], QUICK)


@pytest.mark.parametrize(
    "held", [held for name, held in FULLY if name.startswith("combination")], ids=lambda held: held[0].kernel
)
def test_mechanisms_that_meet_inside_a_kernel(held: list[Item]) -> None:
    check([item for item in held if item.dtype is not torch.float32], EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("held", [held for _, held in FULLY], ids=[name for name, _ in FULLY])
def test_every_case(held: list[Item]) -> None:
    check(held, EVERY)


def test_what_passes_was_computed() -> None:
    """Mixers beside attention passed without a check, where their plain example stood for them."""
    selection = Selection(mechanisms=("retention",), dtypes=(torch.float32,), layouts=("cached",))
    rows = [verify_item(item, selection) for item in items(selection)]
    assert all(row.checks if row.status == "pass" else row.reason for row in rows)
    assert any("the plain example of the mechanism stands for the others" in row.reason for row in rows)


def test_every_mechanism_is_covered_in_every_dtype() -> None:
    covered = {(item.mechanism, item.dtype) for item in ALL if not item.refusal}
    assert {(value.model_fields["kind"].default, dtype) for value in registry for dtype in DTYPES} <= covered


def test_what_a_kernel_cannot_compute_is_refused_by_name_and_planned_elsewhere() -> None:
    refused = 0
    for item in items(Selection(kernels=("sdpa",), dtypes=(torch.float32,), layouts=("plain",), quick=True)):
        if item.layer is None or item.layer.attention is None or item.refusal:
            continue
        request = KernelCase(item.layer.attention, "sdpa", item.dtype, item.layout).request()
        reasons = KERNELS["sdpa"].supports(request)
        if not reasons:
            assert plan(request, "sdpa").choice == "sdpa"
            continue
        refused += 1
        with pytest.raises(KernelError, match="kernel sdpa cannot compute this attention: ") as refusal:
            plan(request, "sdpa")
        assert all(str(reason) in str(refusal.value) for reason in reasons)
        assert plan(request).choice not in plan(request).refusals
    assert refused
