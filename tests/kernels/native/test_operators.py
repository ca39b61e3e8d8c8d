"""The core as torch operators: shapes, compilers, checkpointing; and how it is built and found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attentune.kernels.native import build, library
from kernels.native.cases import Case, needs_core
from unchecked import run_without_shape_checks

CASE = Case(batch=1, heads=2, groups=1, queries=70, keys=70, width=8, value_width=12, steps=("add", "cap"), extra=True)


@needs_core
def test_without_shape_checks() -> None:
    run_without_shape_checks(Path(__file__).with_name("unchecked_native.py"), at_least=14)


@needs_core
def test_the_first_call_of_a_process_imports_no_compiler() -> None:
    file = Path(__file__).with_name("first_call.py")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
    with pytest.raises(build.BuildError, match=r"compiler failed: x\.cpp:1: error: no such thing"):
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
    runtimes = {path for path in runtimes if "scikit_learn" not in path}  # which brings one of its own, for itself
    assert len(runtimes) <= 1, "two OpenMP runtimes would keep two sets of threads"
