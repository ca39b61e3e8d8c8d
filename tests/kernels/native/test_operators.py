"""The core as torch operators: shapes, compilers, checkpointing; and how it is built and found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attentune.kernels import native
from attentune.kernels.native import build, library
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
    return *made.operands, values, made.extra, parts, *positions, torch.tensor(3), 0.3, [0, 0, -69, 2, 0, 0], [2.0], 0, 0.2


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
    with pytest.raises(RuntimeError, match="blocked_backward"):
        first[0].sum().backward()


@needs_core
def test_memory_lies_as_models_read_it() -> None:
    made, leaves = CASE.made().leaves(torch.float32)
    output = made.native().output
    assert output.transpose(1, 2).is_contiguous()
    assert torch.autograd.grad(output.sum(), leaves[0])[0].transpose(1, 2).is_contiguous()


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler was found"):
        build.build(tmp_path / "out.so")
    monkeypatch.setenv("CXX", str(tmp_path / "missing-compiler"))
    with pytest.raises(build.BuildError, match="missing-compiler does not run"):
        build.build(tmp_path / "out.so")
    assert not (tmp_path / "out.so").exists()


def test_a_failing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "compiler"
    fake.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(build.BuildError, match="compiler failed: x.cpp:1: error: no such thing"):
        build.build(tmp_path / "out.so")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for the library that this test looks for anew."""
    target = tmp_path / "_native.so"
    monkeypatch.setattr(library, "library_path", lambda: target)
    monkeypatch.setattr(library, "_load", library._load.__wrapped__)
    return target


def test_a_missing_library_is_a_reason(fresh: Path) -> None:
    assert "no C++ compiler was found when attentune was installed" in str(library.available())


def test_a_broken_library_is_a_reason(fresh: Path) -> None:
    fresh.write_bytes(b"not a library")
    assert "does not load" in str(library.available()) and build.REBUILD in str(library.available())


@needs_core
def test_a_stale_library_is_a_reason(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(build.library_path(), fresh)
    assert library.available() is None
    monkeypatch.setattr(library, "source_hash", lambda source: "another")
    assert "was built from other source" in str(library.available())


@needs_core
def test_the_core_shares_torchs_threads() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    runtimes = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(runtimes) <= 1, "two OpenMP runtimes would keep two sets of threads"
