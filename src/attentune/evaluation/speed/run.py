"""The benchmark from the first cell to the last: resumable, each cell kept the moment it is done."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from attentune.errors import StudyError
from attentune.evaluation.speed.contestant import Contestant, picked
from attentune.evaluation.speed.grid import Case, Cell, Setting
from attentune.evaluation.speed.measurement import SLOW_SECONDS, time_together, try_alone
from attentune.evaluation.speed.memory import available
from attentune.evaluation.speed.peers import contestants
from attentune.evaluation.speed.problem import visible_pairs
from attentune.evaluation.speed.processes import Outcome, guarded
from attentune.evaluation.speed.results import CellResult, Entry, Machine, Results, keep, kept
from attentune.models.storage import atomic_write, prepare_folder

GIB = 2**30
RESERVE = 0.9  # share of the free memory that a contestant may take
FAR = 3.0  # times the fastest contestant's time
ALL_TOGETHER = 2.0  # contestants that are timed beside each other keep their masks at the same time
PACKAGES = ("attentune", "torch", "local-attention", "x-transformers", "transformers")
Progress = Callable[[int, int, str], None]  # cells done, cells in all, what is done now


def measure(
    cells: Sequence[Cell],
    setting: Setting,
    *,
    folder: Path | None = None,
    progress: Progress = lambda done, total, note: None,
) -> Results:
    """Every cell, in order; those that `folder` holds already are read.

    Raises:
        StudyError: the folder holds figures of another setting or machine.
        StorageError: the folder cannot be written.
    """
    machine = machine_of(setting)
    if folder is not None:
        _claim(prepare_folder(folder), setting, machine)
    results: list[CellResult] = []
    with tempfile.TemporaryDirectory(prefix="attentune-bench-") as cache:
        for cell in cells:

            def tell(note: str) -> None:
                progress(len(results), len(cells), note)

            held = kept(folder, cell) if folder is not None else None
            if held is None:
                held = measure_cell(Case(cell, setting), cache, tell)
                if folder is not None:
                    keep(folder, held)
            results.append(held)
            tell("")
    return Results(machine, setting, tuple(results))


def measure_cell(case: Case, cache: str, tell: Callable[[str], None]) -> CellResult:
    """One cell: each contestant tried alone, then all that passed timed together."""
    entries: dict[str, Entry] = {}
    expected: dict[str, float] = {}
    for one in contestants(case):
        tell(f"{case.cell}: {one.name}")
        entries[one.name], seconds = _tried(one, case, cache)
        if seconds is not None:
            expected[one.name] = seconds
    for name in far_behind(expected):
        entries[name] = replace(entries[name], seconds=(expected.pop(name),), note="timed once, alone")
    tell(f"{case.cell}: side by side")
    rates = _timed(case, cache, entries, expected)
    pairs = visible_pairs(case) * case.setting.heads * case.setting.batch
    each = (14 if case.backward else 4) * case.setting.head_width
    return CellResult(
        cell=case.cell,
        entries=tuple(entries.values()),
        pairs=pairs,
        operations=float(pairs * each),
        matrix_rate=sorted(rates)[len(rates) // 2] if rates else None,
        pick=picked(case),
    )


def far_behind(expected: Mapping[str, float]) -> list[str]:
    """Those that take seconds and are so much slower than the fastest that another call would tell nothing new."""
    fastest = min(expected.values(), default=0.0)
    return [name for name, seconds in expected.items() if seconds > max(SLOW_SECONDS, FAR * fastest)]


def _timed(case: Case, cache: str, entries: dict[str, Entry], expected: dict[str, float]) -> list[float]:
    """Fills in the seconds of those in `expected`; gives the rates of the matrix product.

    Beside each other they hold their masks at the same time: while that is too much, the largest one is left out.
    """
    while True:
        limit = min(ALL_TOGETHER * case.setting.limit_gib * GIB, _free_bytes(case.setting))
        outcome = guarded(time_together, case, expected, limit_bytes=limit, cache=cache)
        if outcome.result is not None:
            for name, seconds in outcome.result["samples"].items():
                entries[name] = replace(entries[name], seconds=tuple(seconds))
            rates: list[float] = outcome.result["matrix_rates"]
            return rates
        why = f"side by side with the others: {outcome.failure} ({outcome.stage})"
        if outcome.limit != "memory" or len(expected) < 2:
            entries |= {name: replace(entries[name], status="failed", note=why) for name in expected}
            return []
        largest = max(expected, key=lambda name: entries[name].peak_bytes or 0)
        entries[largest] = replace(entries[largest], status="skipped", note=why)
        del expected[largest]


def _tried(one: Contestant, case: Case, cache: str) -> tuple[Entry, float | None]:
    """What is known of a contestant after it was tried alone, and how long a call takes if it may be timed."""
    if (reason := one.refusal(case)) is not None:
        return Entry(one.name, one.ours, "refused", reason), None
    limit = _limit_bytes(case.setting)
    if (needed := one.needs(case)) > limit:
        return Entry(one.name, one.ours, "skipped", f"needs {needed / GIB:.1f} GiB"), None
    outcome = guarded(try_alone, case, one.name, limit_bytes=limit, cache=cache)
    found = outcome.result
    if found is None:
        return Entry(one.name, one.ours, *_why(outcome, case)), None
    figures: dict[str, Any] = {"error": found["error"], "peak_bytes": found["peak_bytes"]}
    if one.compiles:
        figures["compile_seconds"] = max(found["first_seconds"] - found["seconds"], 0.0)
    if not found["error"] <= found["allowed"]:
        note = f"{found['tensor']} is off by {found['error']:.2g} of itself, rounding explains {found['allowed']:.2g}"
        return Entry(one.name, one.ours, "wrong", note, **figures), None
    if found["seconds"] > case.setting.limit_seconds:
        return Entry(one.name, one.ours, "skipped", f"took {found['seconds']:.1f} s", **figures), None
    return Entry(one.name, one.ours, "measured", **figures), found["seconds"]


def _why(outcome: Outcome, case: Case) -> tuple[str, str]:
    if outcome.limit == "time" and outcome.stage in ("first call", "call"):
        return "skipped", f"took more than {case.setting.limit_seconds:g} s"
    if outcome.limit is not None:
        return "skipped", f"{outcome.failure} ({outcome.stage})"
    return "failed", f"{outcome.failure} ({outcome.stage})"


def _limit_bytes(setting: Setting) -> float:
    """What one contestant may take: what the setting allows, and no more than is free."""
    return min(setting.limit_gib * GIB, _free_bytes(setting))


def _free_bytes(setting: Setting) -> float:
    """What may be taken without driving others out; a GPU's memory is watched by its own allocator."""
    free = available()
    return float("inf") if free is None or setting.device != "cpu" else RESERVE * free


def machine_of(setting: Setting) -> Machine:
    """This machine."""
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    device = torch.cuda.get_device_name() if setting.device == "cuda" else ""
    versions = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            versions.append((package, version(package)))
        except PackageNotFoundError:
            versions.append((package, "absent"))
    return Machine(_processor(), os.cpu_count() or 1, memory, device, tuple(versions))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _claim(folder: Path, setting: Setting, machine: Machine) -> None:
    """The folder is for this setting on this machine; what it holds of another is told, not mixed in."""
    wanted = {
        **setting.model_dump(mode="json"),
        "processor": machine.processor,
        "cores": machine.cores,
        **dict(machine.versions),
    }
    path = folder / "settings.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        held = None
    except (OSError, ValueError):
        raise StudyError(f"{path} cannot be read: remove {folder}, or name another --out") from None
    if held is None:
        atomic_write(path, json.dumps(wanted, indent=1) + "\n")
    elif held != wanted:
        differing = [name for name in {**held, **wanted} if held.get(name) != wanted.get(name)]
        told = ", ".join(f"{name} {_short(held.get(name))} (now {_short(wanted.get(name))})" for name in differing)
        raise StudyError(f"{folder} holds figures measured with {told}: name another --out, or remove the folder")


def _short(value: object) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
