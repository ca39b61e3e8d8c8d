"""What the core tells of the weights, and dropout."""

from __future__ import annotations

import pytest
import torch

from attentune.kernels import native
from kernels.native.cases import Case, needs_core

pytestmark = needs_core
ALL = frozenset({"column_mass", "entropy", "top_k", "lse"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "case",
    [
        Case(queries=130, keys=130, window=70),
        Case(queries=70, keys=100, extra=True, groups=1, width=24),
        Case(queries=2, keys=100, steps=("add", "cap")),
        Case(queries=70, keys=70, kind="sigmoid", steps=("add",)),
        Case(queries=70, keys=70, kind="relu2"),
        Case(batch=1, heads=1, groups=1, queries=200, keys=200, visible=lambda d: (d >= 0) & (d % 3 == 0) & (d < 20)),
    ],
    ids=repr,
)
def test_exact(case: Case, threads: int, dtype: torch.dtype) -> None:
    made = case.made()
    _, p, lse = made.dense()
    torch.set_num_threads(threads)
    try:
        result = made.leaves(dtype)[0].native(wanted=ALL, top=5)
    finally:
        torch.set_num_threads(1)
    close = {"rtol": 3e-5, "atol": 3e-6} if dtype is torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    assert result.column_mass is not None and result.entropy is not None and result.top_k is not None
    torch.testing.assert_close(result.column_mass.double(), p.sum(-2), **close)
    torch.testing.assert_close(result.entropy.double(), torch.special.entr(p).sum(-1), **close)
    torch.testing.assert_close(result.key_lse.double(), lse, **close)
    weight, key = result.top_k
    torch.testing.assert_close(weight.double(), p.topk(5).values, **close)
    torch.testing.assert_close(p.gather(-1, key).where(weight > 0, torch.zeros(())), weight.double(), **close)


def test_no_lse_where_none_was_wanted() -> None:
    assert Case(kind="sigmoid").made().leaves(torch.float32)[0].native().key_lse.isnan().all()


def test_statistics_have_no_gradient_and_say_so() -> None:
    made, _ = Case().made().leaves(torch.float32)
    entropy = made.native(wanted=frozenset({"entropy"})).entropy
    assert entropy is not None
    with pytest.raises(RuntimeError, match="blocked_statistics"):
        entropy.sum().backward()


def test_top_is_bounded_by_the_keys() -> None:
    best = Case(queries=3, keys=3).made().leaves(torch.float32)[0].native(wanted=frozenset({"top_k"}), top=8).top_k
    assert best is not None and best[0].shape[-1] == 3


def kept(case: Case, *, rate: float, seed: int) -> torch.Tensor:
    """Which weights dropout keeps, times 1 / (1 - rate): read from the output with values that are unit vectors."""
    made, _ = case.made().leaves(torch.float64)
    unit = torch.eye(case.keys, dtype=torch.float64).expand(case.batch, case.groups, -1, -1)
    wide = type(made)(**{**vars(made), "operands": (*made.operands[:2], unit)})
    whole, dropped = wide.native().output, wide.native(dropout=rate, seed=seed).output
    return torch.where(whole > 0, dropped / whole, torch.zeros(())).detach()


def test_dropout_keeps_the_share_it_should_and_follows_the_seed() -> None:
    case = Case(batch=2, heads=2, queries=128, keys=128, visible=lambda d: d == d)
    keep = kept(case, rate=0.25, seed=7)
    rounded = keep.mul(0.75).round()
    torch.testing.assert_close(keep, rounded / 0.75)
    assert rounded.mean().item() == pytest.approx(0.75, abs=0.01)
    for row in (rounded.mean(-1), rounded.mean(-2)):  # neither queries nor keys are favoured
        assert row.std().item() == pytest.approx((0.75 * 0.25 / 128) ** 0.5, rel=0.15)
    flat = rounded.flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(flat)  # heads and batch rows are independent
    assert (correlation - torch.eye(4)).abs().max() < 0.05
    torch.manual_seed(0)
    assert torch.equal(kept(case, rate=0.25, seed=7).round(), keep.round())
    torch.manual_seed(0)
    assert not torch.equal(kept(case, rate=0.25, seed=8).round(), keep.round())


@pytest.mark.parametrize("queries", [3, 100])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "relu2"])
@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
def test_dropout_is_the_same_backward(queries: int, kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTUNE_ISA", name)
    if native.instruction_set() == "none":
        pytest.skip(f"this machine has no {name}")
    case = Case(queries=queries, keys=128, kind=kind, steps=("add",), groups=1)
    keep = kept(Case(**{**vars(case), "value_width": 128, "kind": "sigmoid", "steps": ()}), rate=0.3, seed=11)
    made = case.made()
    ours, leaves = made.leaves(torch.float32)
    truth, exact = made.leaves(torch.float64)
    given = torch.randn(case.batch, case.heads, queries, 16)
    output = ours.native(dropout=0.3, seed=11).output
    expected, *_ = truth.dense(keep)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
    found, right = (
        torch.autograd.grad((output * given).sum(), leaves),
        torch.autograd.grad((expected * given).sum(), exact),
    )
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_dropping_all_leaves_nothing() -> None:
    made, leaves = Case().made().leaves(torch.float32)
    output = made.native(dropout=1.0, seed=1).output
    assert not output.any()
    assert not any(g.any() for g in torch.autograd.grad(output.sum(), leaves))
