"""The compiled core against whole matrices in float64: outputs and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attentune.errors import KernelError
from attentune.kernels import native
from kernels.native.cases import Case, compare, needs_core
from kernels.native.dense import dense_attention, table_of

pytestmark = needs_core
SETS = ("plain", "avx2", "avx512")


def _has(name: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTENTUNE_ISA", name)
        return native.available() is None and native.instruction_set() == name


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(queries=1, keys=1, width=8, value_width=8),
        Case(queries=63, keys=63, window=5),
        Case(queries=64, keys=64, width=64, value_width=64),
        Case(queries=65, keys=65, width=24, value_width=40),
        Case(batch=1, queries=200, keys=200, width=64, value_width=64, window=70),
        Case(batch=1, queries=200, keys=90, width=80, value_width=128),
        Case(batch=1, queries=70, keys=200, width=128, value_width=64, heads=4, groups=2, extra=True),
        Case(heads=6, groups=1, queries=130, keys=130, extra=True),
        Case(queries=3, keys=300, heads=4, groups=2, extra=True),
        Case(queries=70, keys=70, visible=lambda d: torch.rand(2, 70, 70) < 0.1),
        Case(steps=("add", "cap", "log", "multiply", "constant", "term", "cap"), queries=130, keys=150, window=100),
    ],
    ids=repr,
)
def test_every_instruction_set(case: Case, dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not _has(name):
        pytest.skip(f"this machine has no {name}")
    monkeypatch.setenv("ATTENTUNE_ISA", name)
    compare(Case(**{**vars(case), "dtype": dtype}))


STEPS = ["add", "shared", "log", "constant", "cap", "multiply", "multiply_all", "term", "term_shared"]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "relu2"])
@pytest.mark.parametrize("step", STEPS)
def test_every_step(step: str, kind: str) -> None:
    compare(Case(steps=(step,), kind=kind, queries=100, keys=140, window=75, dtype=torch.float64))
    compare(Case(steps=(step, "cap", step), kind=kind, queries=66, keys=66))


@pytest.mark.parametrize("step", STEPS)
def test_steps_of_few_queries(step: str) -> None:
    for dtype in (torch.float32, torch.float64):
        compare(Case(steps=(step,), queries=2, keys=130, dtype=dtype))


@pytest.mark.parametrize("queries", [2, 70])
def test_positions_that_do_not_run_on(queries: int) -> None:
    case = Case(steps=("add", "log"), queries=queries, keys=100, positions=lambda n: (n // 3).repeat(2, 1))
    compare(Case(**{**vars(case), "dtype": torch.float64}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("steps", [(), ("add", "cap")])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, steps: tuple[str, ...]) -> None:
    compare(Case(dtype=dtype, steps=steps, extra=True, groups=1))


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(
    "case",
    [
        Case(batch=1, heads=1, groups=1, queries=300, keys=300, steps=("add",)),
        Case(batch=1, heads=4, groups=1, queries=200, keys=200, window=70, width=24, extra=True),
        Case(batch=1, heads=2, groups=1, queries=1, keys=1000, extra=True),
    ],
    ids=repr,
)
def test_threads_agree(case: Case, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        compare(case)
    finally:
        torch.set_num_threads(1)


def test_same_twice() -> None:
    made, leaves = Case(batch=1, heads=1, groups=1, queries=300, keys=300, steps=("add",)).made().leaves(torch.float32)
    torch.set_num_threads(2)
    try:
        found = [torch.autograd.grad(made.native().output.sum(), leaves) for _ in range(3)]
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("batch", [0, 1])
def test_zero_lengths(sizes: tuple[int, int], batch: int) -> None:
    queries, keys = sizes
    q, k, v = (torch.randn(batch, 2, n, 8).requires_grad_() for n in (queries, keys, keys))
    visible = torch.ones(1, queries, keys, dtype=torch.bool)
    positions = [torch.arange(n, dtype=torch.int32)[None] for n in sizes]
    result = native.forward(
        q, k, v, scale=1.0, table=table_of(visible), query_position=positions[0], key_position=positions[1],
        wanted=frozenset({"column_mass", "entropy", "top_k"}),
    )  # fmt: skip
    assert result.output.shape == q.shape and not result.output.any()
    assert result.column_mass is not None and not result.column_mass.any()
    result.output.sum().backward()
    assert q.grad is not None and k.grad is not None and not q.grad.any() and not k.grad.any()


def test_rows_that_see_nothing() -> None:
    for queries in (4, 70):
        compare(
            Case(
                queries=queries,
                keys=70,
                visible=lambda d: (d >= 0) & (d % 5 == 0) & (torch.arange(d.shape[1])[:, None] % 2 == 0),
            )
        )


@pytest.mark.parametrize("queries", [3, 70])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_stays_with_those_who_see_it(which: int, bad: float, queries: int) -> None:
    made, leaves = Case(batch=1, heads=1, groups=1, queries=queries, keys=100, window=40).made().leaves(torch.float32)
    row = queries - 2 if which == 0 else 60
    with torch.no_grad():
        leaves[which][0, 0, row] = bad
    touched = made.visible[0, :, row] if which else torch.arange(queries) == row
    assert (touched.any() and not touched.all()) or queries == 3
    output = made.native().output
    broken = ~output.isfinite().all(-1)[0, 0]
    assert torch.equal(broken, touched) if bad != bad else not broken[~touched].any()
    # The gradient of what was not touched knows nothing of it.
    output[:, :, ~touched].sum().backward()
    gradient = leaves[0].grad
    assert gradient is not None and gradient[0, 0, ~touched].isfinite().all()


def test_hidden_places_may_hold_anything() -> None:
    made, leaves = (
        Case(
            batch=1, heads=2, groups=1, queries=70, keys=100, visible=lambda d: (d >= 0) & (torch.arange(100) % 7 != 3)
        )
        .made()
        .leaves(torch.float32)
    )
    clean = torch.autograd.grad(made.native().output.square().sum(), leaves)
    clean_output = made.native().output
    with torch.no_grad():
        for x in leaves[1:3]:
            x[:, :, 3::7] = float("nan")
    output = made.native().output
    assert torch.equal(output, clean_output)
    poisoned = torch.autograd.grad(output.square().sum(), leaves)
    assert torch.equal(poisoned[0], clean[0])
    for a, b in zip(poisoned[1:3], clean[1:3], strict=True):
        assert torch.equal(a, b) and not a[:, :, 3::7].any()


def test_infinite_scores_as_torch_has_them() -> None:
    q, k, v = torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8), torch.randn(1, 1, 6, 8)
    q[..., 0], k[0, 0, 2, 0] = 1.0, float("-inf")
    visible, at = torch.ones(1, 6, 6, dtype=torch.bool), torch.arange(6, dtype=torch.int32)[None]
    ours = native.forward(q, k, v, scale=1.0, table=table_of(visible), query_position=at, key_position=at).output
    truth, *_ = dense_attention(q, k, v, visible, scale=1.0, query_position=at, key_position=at)
    torch.testing.assert_close(ours, truth)
    k[0, 0, 2, 0] = float("inf")
    assert (
        native.forward(q, k, v, scale=1.0, table=table_of(visible), query_position=at, key_position=at)
        .output.isnan()
        .all()
    )


def test_strides_are_read_in_place_or_copied() -> None:
    made, _ = Case(width=16).made().leaves(torch.float32)
    plain = made.native().output
    odd = [torch.stack([x, x], -1).flatten(-2)[..., ::2] for x in made.operands]
    expanded = made.operands[2][:, :, :1].expand(-1, -1, 70, -1)
    assert odd[0].stride(-1) == 2
    given = {
        "scale": 0.25,
        "table": table_of(made.visible),
        "query_position": made.query.int(),
        "key_position": made.key.int(),
    }
    assert torch.equal(native.forward(*odd, **given).output, plain)  # type: ignore[arg-type]
    same = native.forward(*made.operands[:2], expanded, **given).output  # type: ignore[arg-type]
    torch.testing.assert_close(same[:, :, 3:], expanded[:, :, 3:], rtol=1e-5, atol=1e-5)


def test_gradcheck() -> None:
    for case in (
        Case(batch=1, queries=5, keys=6, width=3, value_width=2, steps=("add", "cap", "multiply"), extra=True),
        Case(batch=1, queries=5, keys=6, width=3, value_width=2, steps=("log", "term"), kind="sigmoid"),
    ):
        made, leaves = case.made().leaves(torch.float64)

        def run(*_: Tensor) -> Tensor:
            return made.native().output  # noqa: B023

        torch.autograd.gradcheck(run, leaves)


def test_hand_computed() -> None:
    # Scores 0 and log 3: weights 1/4 and 3/4. With an extra logit of log 4: 1/8 and 3/8.
    q = torch.tensor([1.0]).reshape(1, 1, 1, 1)
    k, v = (
        torch.tensor([0.0, 3.0]).log().nan_to_num(neginf=0.0).reshape(1, 1, 2, 1),
        torch.tensor([8.0, 16.0]).reshape(1, 1, 2, 1),
    )
    visible, at = torch.ones(1, 1, 2, dtype=torch.bool), torch.arange(2, dtype=torch.int32)[None]
    given = {"scale": 1.0, "table": table_of(visible), "query_position": at[:, :1], "key_position": at}
    result = native.forward(q, k, v, **given, wanted=frozenset({"entropy", "column_mass", "top_k"}), top=1)  # type: ignore[arg-type]
    assert result.output.item() == pytest.approx(14.0)
    assert result.lse.item() == pytest.approx(1.3862944)
    assert result.entropy is not None and result.entropy.item() == pytest.approx(0.5623351)
    assert result.column_mass is not None and result.column_mass.flatten().tolist() == pytest.approx([0.25, 0.75])
    assert result.top_k is not None and result.top_k[0].item() == pytest.approx(0.75) and result.top_k[1].item() == 1
    sunk = native.forward(q, k, v, **given, extra_logit=torch.tensor([4.0]).log())  # type: ignore[arg-type]
    assert sunk.output.item() == pytest.approx(7.0)
    assert sunk.lse.item() == pytest.approx(2.0794415) and sunk.key_lse.item() == pytest.approx(1.3862944)


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTUNE_ISA", "avx1024")
    with pytest.raises(KernelError, match="ATTENTUNE_ISA names an instruction set that this machine lacks"):
        Case().made().native()
