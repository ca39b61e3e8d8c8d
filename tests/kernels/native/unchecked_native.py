"""What the run-time checks of shapes would stand in the way of: compilers, and operands that do not fit.

Run by test_operators.py, in a process without these checks.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attentune.errors import KernelError
from attentune.kernels import native
from attentune.kernels.native.operators import blocked_forward, blocked_statistics
from kernels.native.cases import Case, needs_core
from kernels.native.dense import table_of

CASE = Case(batch=1, heads=2, groups=1, queries=70, keys=70, width=8, value_width=12, steps=("add", "cap"), extra=True)


def operands(case: Case) -> tuple[object, ...]:
    made, _ = case.made().leaves(torch.float32)
    table = table_of(made.visible)
    parts = [table.start, table.key_tile, table.pattern, table.patterns]
    values = [step.table for step in made.steps[:1]]  # type: ignore[union-attr]
    positions = (made.query.int(), made.key.int())
    return (
        *made.operands,
        values,
        made.extra,
        parts,
        *positions,
        torch.tensor(3),
        0.3,
        [0, 0, -69, 2, 0, 0],
        [2.0],
        0,
        0.2,
    )


@needs_core
def test_opcheck() -> None:
    torch.library.opcheck(blocked_forward, operands(CASE))


@needs_core
def test_opcheck_of_statistics() -> None:
    q, k, _, values, extra, parts, query, key, _, *rest = operands(CASE)
    lse = blocked_forward(*operands(CASE))[1]
    given = [x.detach() if isinstance(x, Tensor) else x for x in (q, k)]
    values = [x.detach() for x in values]  # type: ignore[attr-defined]
    tests = ("test_schema", "test_faketensor")
    wanted = "column_mass top_k"
    torch.library.opcheck(
        blocked_statistics,
        (lse.detach(), wanted, 3, *given, values, extra.detach(), parts, query, key, *rest[:4]),  # type: ignore[attr-defined]
        test_utils=tests,
    )


@needs_core
def test_compiles_to_one_graph() -> None:
    made, leaves = CASE.made().leaves(torch.float32)
    table, positions = table_of(made.visible), (made.query.int(), made.key.int())

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = native.forward(
            q, k, v, scale=0.3, table=table, query_position=positions[0], key_position=positions[1], steps=made.steps
        )
        return given.output.square().sum()

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    eager, found = (torch.autograd.grad(way(*leaves[:3]), leaves[:3]) for way in (run, compiled))
    for a, b in zip(eager, found, strict=True):
        torch.testing.assert_close(a, b)


@needs_core
def test_checkpointing_recomputes_the_same_dropout() -> None:
    made, leaves = CASE.made().leaves(torch.float32)

    def run(*_: Tensor) -> Tensor:
        return made.native(dropout=0.3, seed=torch.randint(1 << 62, ())).output

    found = []
    for way in (run, lambda *x: checkpoint(run, *x, use_reentrant=False)):
        torch.manual_seed(5)
        found.append(torch.autograd.grad(way(*leaves).sum(), leaves))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@needs_core
def test_second_derivatives_are_refused() -> None:
    made, leaves = CASE.made().leaves(torch.float32)
    first = torch.autograd.grad(made.native().output.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first[0].sum().backward()


@needs_core
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.randn(1, 2, 9, 8)}, "q, k and v must be"),
        ({"k": torch.randn(1, 3, 9, 4), "v": torch.randn(1, 3, 9, 4)}, "2 heads do not share 3"),
        ({"v": torch.randn(1, 2, 9, 4, dtype=torch.float64)}, "one floating type"),
        ({"query_position": torch.arange(8, dtype=torch.int32)[None]}, "query positions must be"),
        ({"extra_logit": torch.zeros(3)}, "extra logit must be"),
        ({"kind": "softmaks"}, "did you mean 'softmax'"),
        ({"wanted": frozenset({"weights"})}, "wanted 'weights' is unknown"),
        ({"dropout": 1.5}, "dropout must lie between 0 and 1"),
        ({"table": table_of(torch.ones(3, 9, 9, dtype=torch.bool))}, "the table has"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    at = torch.arange(9, dtype=torch.int32)[None]
    given: dict[str, object] = {
        **{name: torch.randn(1, 2, 9, 4) for name in "qkv"},
        "scale": 1.0,
        "table": table_of(torch.ones(1, 9, 9, dtype=torch.bool)),
        "query_position": at,
        "key_position": at,
    }
    with pytest.raises(KernelError, match=message):
        native.forward(**{**given, **change})  # type: ignore[arg-type]
