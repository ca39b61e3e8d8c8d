"""`ledger.csv`: one row for every trial of a study, written whole each time and read back exactly.

Every setting has its own column under its own name, in the order in which the trials first used it; a trial without
the setting leaves the cell empty. A setting that bears the name of one of the ledger's own columns gets `setting:`
before it. Text that would read as a number is put in double quotes, so that the type of a setting survives.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from attentune.data.tables import table_line
from attentune.errors import AttentuneError, StudyError, near
from attentune.models.storage import atomic_write
from attentune.search.result import Curve, Scalar, TrialRecord

_BEFORE: Final = ("number", "stage", "arm", "status")
_AFTER: Final = (
    "seeds",
    "loss",
    "figures",
    "bits_per_character",
    "bits_per_byte",
    "tokens",
    "seconds",
    "tokens_per_second",
    "parameters",
    "latency_ms",
    "peak_bytes",
    "curve",
    "reason",
)
OWN_COLUMNS: Final = _BEFORE + _AFTER
_PREFIX: Final = "setting:"
_INTEGER: Final = re.compile(r"-?\d+")


def write_ledger(path: Path, trials: Iterable[TrialRecord]) -> None:
    """Replace the file at `path` by the ledger of `trials`; a reader sees the old file or the new one, never a part.

    Errors: StorageError where the file cannot be written.
    """
    atomic_write(path, ledger_text(trials))


def ledger_text(trials: Iterable[TrialRecord]) -> str:
    """The ledger as CSV text, rows in the order of the trials' numbers."""
    records = sorted(trials, key=lambda trial: trial.number)
    names = list(dict.fromkeys(name for trial in records for name in trial.settings))
    lines = [table_line([*_BEFORE, *map(_column, names), *_AFTER])]
    for trial in records:
        settings = [_cell(trial.settings[name]) if name in trial.settings else "" for name in names]
        before, after = ([_own_cell(trial, name) for name in own] for own in (_BEFORE, _AFTER))
        lines.append(table_line([*before, *settings, *after]))
    return "".join(lines)


def read_ledger(path: Path) -> tuple[TrialRecord, ...]:
    """The trials that `write_ledger` wrote.

    Errors: StudyError for a file that is missing or is no ledger; it names the line.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise StudyError(f"no ledger at {path}; is this the folder of a study?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot read the ledger {path}: {error}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or ()
        for name in OWN_COLUMNS:
            if name not in columns:
                raise StudyError(f"{path} is no ledger: it has no column '{name}'; {near(name, columns)}")
        return tuple(_record(row, path, reader.line_num) for row in reader)
    except csv.Error as error:
        raise StudyError(f"{path}, line {reader.line_num}: {error}") from None


def _record(row: Mapping[str | None, str | None], path: Path, line: int) -> TrialRecord:
    if None in row or None in row.values():
        raise StudyError(f"{path}, line {line}: the number of cells does not match the header")
    cells = {str(name): cell or "" for name, cell in row.items()}
    given = {name.removeprefix(_PREFIX): cell for name, cell in cells.items() if name not in OWN_COLUMNS and cell}
    try:
        settings = {name: _value(cell) for name, cell in given.items()}
        own = {name: parse(cells[name]) for name, parse in _PARSERS.items() if cells[name] or parse is str}
        return TrialRecord.model_validate({**own, "settings": settings})
    except (ValueError, AttentuneError) as error:
        raise StudyError(f"{path}, line {line}: {' '.join(str(error).split())}") from None


def _column(name: str) -> str:
    return f"{_PREFIX}{name}" if name in OWN_COLUMNS or name.startswith(_PREFIX) else name


def _cell(value: Scalar) -> str:
    if isinstance(value, str):
        plain = value and not value.startswith('"') and _value(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _value(cell: str) -> Scalar:
    if cell in ("true", "false"):
        return cell == "true"
    if cell.startswith('"'):
        return str(json.loads(cell))
    if _INTEGER.fullmatch(cell):
        return int(cell)
    try:
        return float(cell)
    except ValueError:
        return cell


def _own_cell(trial: TrialRecord, name: str) -> str:
    value = getattr(trial, name)
    if value is None:
        return ""
    if name == "seeds":
        return " ".join(map(str, value))
    if name == "figures":
        return json.dumps(value, ensure_ascii=False) if value else ""
    if name == "curve":
        return " ".join(f"{tokens}:{loss!r}" for tokens, loss in value)
    return str(value) if isinstance(value, str) else repr(value)


def _seeds(cell: str) -> tuple[int, ...]:
    return tuple(int(seed) for seed in cell.split())


def _curve(cell: str) -> Curve:
    points = (point.split(":") for point in cell.split())
    return tuple((int(tokens), float(loss)) for tokens, loss in points)


def _figures(cell: str) -> dict[str, float]:
    found = json.loads(cell)
    if not isinstance(found, dict):
        raise ValueError(f"figures are a table, got {cell}")
    return found


_PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "number": int,
    "stage": str,
    "arm": str,
    "status": str,
    "seeds": _seeds,
    "loss": float,
    "figures": _figures,
    "bits_per_character": float,
    "bits_per_byte": float,
    "tokens": int,
    "seconds": float,
    "tokens_per_second": float,
    "parameters": int,
    "latency_ms": float,
    "peak_bytes": int,
    "curve": _curve,
    "reason": str,
}
