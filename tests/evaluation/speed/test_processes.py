"""Watched processes end when they should, and memory is seen where it is taken."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from attentune.evaluation.speed import memory
from attentune.evaluation.speed.memory import PeakMemory, held_bytes, resident
from attentune.evaluation.speed.processes import guarded
from evaluation.speed import working

MIB = 2**20
linux = pytest.mark.skipif(resident() is None, reason="the system does not tell how much memory a process holds")


def test_work_is_done_in_another_process(tmp_path: Path) -> None:
    outcome = guarded(working.add, 2, 3, limit_bytes=2**40, cache=str(tmp_path))
    assert outcome.result is not None
    assert outcome.result["sum"] == 5
    assert outcome.result["process"] != os.getpid()
    assert outcome.result["cache"] == str(tmp_path)
    assert outcome.limit is None


def test_errors_and_deaths_are_told() -> None:
    failed = guarded(working.fail, limit_bytes=2**40)
    assert (failed.result, failed.failure, failed.stage) == (None, "RuntimeError: no luck", "fail")
    died = guarded(working.die, limit_bytes=2**40)
    assert (died.result, died.failure, died.stage) == (None, "the process ended with code 7", "die")


def test_what_takes_too_long_is_ended() -> None:
    outcome = guarded(working.wait, limit_bytes=2**40)
    assert (outcome.limit, outcome.stage) == ("time", "wait")
    assert not multiprocessing.active_children()


@linux
def test_what_takes_too_much_memory_is_ended() -> None:
    outcome = guarded(working.grow, limit_bytes=64 * MIB)
    assert (outcome.limit, outcome.stage) == ("memory", "grow")
    assert "more than 0.0625 GiB" in outcome.failure


@linux
@pytest.mark.parametrize("marked", [True, False])
def test_the_peak_is_what_was_held_at_once(monkeypatch: pytest.MonkeyPatch, marked: bool) -> None:
    if not marked:  # a thread that looks again and again
        monkeypatch.setattr(memory, "_reset_peak", lambda: False)
    kept = torch.ones(16 * MIB)  # what was there before does not count
    with PeakMemory("cpu") as found:
        for _ in range(3):
            torch.ones(8 * MIB).sum()  # 32 MiB, three times, one after the other
    assert found.bytes is not None
    assert 24 * MIB < found.bytes < 80 * MIB
    assert kept.sum() == 16 * MIB


def test_nothing_taken_is_nothing_measured() -> None:
    with PeakMemory("cpu") as found:
        pass
    assert found.bytes is None or found.bytes < 4 * MIB


@dataclass
class Holder:
    one: torch.Tensor
    name: str = "x"


def test_held_bytes_counts_every_storage_once() -> None:
    a, b = torch.zeros(10), torch.zeros(5, dtype=torch.float64)
    assert held_bytes(a, [a[:3], (a.view(2, 5), None)], {"x": Holder(b)}, "text", 3) == 40 + 40
