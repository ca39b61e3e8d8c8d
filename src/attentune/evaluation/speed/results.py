"""What was measured: frozen values, read from and written to one file a cell, and what follows from them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attentune.evaluation.speed.grid import Cell, Setting
from attentune.models.storage import atomic_write

NEAR = 1.1  # a pick within 10 % of the best kernel is a good one


@dataclass(frozen=True)
class Entry:
    """One contestant in one cell. `status` says whether there are figures; `note` why not, or what to know of them.

    - measured: `seconds` of each round, `peak_bytes` beyond the operands, relative `error` against float64;
    - refused: it cannot compute the cell; skipped: it would take, or took, too much; wrong: it computed something else;
    - failed: it raised an error.
    """

    name: str
    ours: bool
    status: str
    note: str = ""
    seconds: tuple[float, ...] = ()
    error: float | None = None
    peak_bytes: int | None = None
    compile_seconds: float | None = None

    @property
    def measured(self) -> bool:
        return self.status == "measured"

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """Seconds."""
        return min(self.seconds)


@dataclass(frozen=True)
class CellResult:
    """All contestants of one cell, timed in one run.

    `pairs` that are visible, of all heads and rows; `operations` that they ask for; `matrix_rate`: operations a second
    of a large matrix product, measured between them; `pick`: what `auto` chooses.
    """

    cell: Cell
    entries: tuple[Entry, ...]
    pairs: int
    operations: float
    matrix_rate: float | None
    pick: str

    def of(self, name: str) -> Entry | None:
        """The entry of a contestant that has figures."""
        return next((one for one in self.entries if one.name == name and one.measured), None)

    @property
    def picked(self) -> Entry | None:
        return self.of(self.pick)

    @property
    def best_peer(self) -> Entry | None:
        return _fastest([one for one in self.entries if one.measured and not one.ours])

    @property
    def best_own(self) -> Entry | None:
        return _fastest([one for one in self.entries if one.measured and one.ours])

    @property
    def speedup(self) -> float | None:
        """The median of the best peer over that of the pick: above 1 the pick is faster."""
        ours, peer = self.picked, self.best_peer
        return None if ours is None or peer is None else peer.median / ours.median

    @property
    def speedup_of_least(self) -> float | None:
        """The same of the fastest rounds."""
        ours, peer = self.picked, self.best_peer
        return None if ours is None or peer is None else peer.least / ours.least

    @property
    def pick_is_good(self) -> bool:
        """Whether the pick is within 10 % of the best of our kernels."""
        ours, best = self.picked, self.best_own
        return best is None or (ours is not None and ours.median <= NEAR * best.median)

    def useful_share(self, entry: Entry) -> float | None:
        """Operations of visible pairs a second, as a share of the rate of matrix products."""
        return None if self.matrix_rate is None else self.operations / entry.median / self.matrix_rate

    def as_data(self) -> dict[str, Any]:
        """Plain data, which `CellResult.of_data` reads back; figures that follow from others stand beside them."""
        entries = []
        for one in self.entries:
            figures: dict[str, Any] = asdict(one)
            if one.measured:
                figures |= {"median": one.median, "least": one.least, "useful_share": self.useful_share(one)}
            entries.append(figures)
        return {
            "cell": self.cell.as_data(),
            "pairs": self.pairs,
            "operations": self.operations,
            "matrix_rate": self.matrix_rate,
            "pick": self.pick,
            "speedup": self.speedup,
            "speedup_of_least": self.speedup_of_least,
            "entries": entries,
        }

    @staticmethod
    def of_data(data: dict[str, Any]) -> CellResult:
        """From plain data. Raises KeyError, TypeError or ValueError where it is something else."""
        names = set(Entry.__dataclass_fields__)
        held: list[dict[str, Any]] = [{name: one[name] for name in names & set(one)} for one in data["entries"]]
        entries = [Entry(**{**one, "seconds": tuple(one["seconds"])}) for one in held]
        kept = {name: data[name] for name in ("pairs", "operations", "matrix_rate", "pick")}
        return CellResult(cell=Cell.of(data["cell"]), entries=tuple(entries), **kept)


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on, and with which versions."""

    processor: str
    cores: int
    memory_gib: float | None
    device: str
    versions: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        parts = [f"{self.processor}, {self.cores} cores"]
        if self.device:
            parts.append(self.device)
        if self.memory_gib is not None:
            parts.append(f"{self.memory_gib:.0f} GiB")
        return ", ".join([*parts, *(f"{name} {version}" for name, version in self.versions)])


@dataclass(frozen=True)
class Results:
    """A finished table: the machine, the setting, and every cell."""

    machine: Machine
    setting: Setting
    cells: tuple[CellResult, ...]
    remarks: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "machine": {**asdict(self.machine), "versions": dict(self.machine.versions)},
            "setting": self.setting.model_dump(mode="json"),
            "remarks": list(self.remarks),
            "cells": [one.as_data() for one in self.cells],
        }


def keep(folder: Path, result: CellResult) -> None:
    """Writes a cell, whole or not at all. Raises `StorageError` where that cannot be done."""
    atomic_write(_file(folder, result.cell), json.dumps(result.as_data(), indent=1) + "\n")


def kept(folder: Path, cell: Cell) -> CellResult | None:
    """What the folder holds of `cell`; None where there is nothing that can be read."""
    try:
        found = CellResult.of_data(json.loads(_file(folder, cell).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if found.cell == cell else None


def _file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell}.json"


def _fastest(entries: Sequence[Entry]) -> Entry | None:
    return min(entries, key=lambda one: one.median, default=None)
