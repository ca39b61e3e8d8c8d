"""Files to the records of a task."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice

from attentune.data.records import Record
from attentune.errors import DataError
from attentune.spec.run import DataSpec
from attentune.tasks.task import Task


def stream(task: Task, path: str, data: DataSpec, *, answers: bool, skip: int = 0) -> Iterator[Record]:
    """The records of a file after the first `skip`, one at a time; with `answers` those of training."""
    names = task.columns if answers else task.asked
    return islice(_rows(path, names), skip, None)


def read(task: Task, path: str, data: DataSpec, *, answers: bool = True) -> list[Record]:
    """All records of a file."""
    return list(stream(task, path, data, answers=answers))


def _rows(path: str, names: tuple[str, ...]) -> Iterator[Record]:
    try:
        file = open(path, encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    with file:
        if path.endswith(".jsonl"):
            for n, line in enumerate(file, 1):
                yield Record(json.loads(line), f"{path}, line {n}")
            return
        if path.endswith(".conll") or "wnut" in path:
            held = []
            begin = 1
            for n, line in enumerate([*file, "\n"], 1):
                if not line.strip():
                    if held:
                        yield Record({"tokens": [a for a, _ in held], "tags": [b for _, b in held]}, f"{path}, line {begin}")
                    held, begin = [], n + 1
                else:
                    held.append(line.split()[:2])
            return
        tabs = path.endswith(".tsv")
        rows = csv.reader(file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
        header = None if all(name.isdigit() for name in names) else next(rows)
        for row in rows:
            keys = header or [str(n) for n in range(1, len(row) + 1)]
            if any(name not in keys for name in names):
                missing = next(name for name in names if name not in keys)
                raise DataError(f"{path} has no column {missing!r}")
            yield Record(dict(zip(keys, row)), f"{path}, line {rows.line_num}")
