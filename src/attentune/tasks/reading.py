"""Files to the records of a task, and their parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from attentune.data.encoding import DataWarning
from attentune.data.record import MissingColumnError
from attentune.data.records import Record, iterate_records
from attentune.data.shape import TableShape
from attentune.data.splits import mark, split
from attentune.data.streams import Progress
from attentune.errors import DataError
from attentune.spec.run import DataSpec
from attentune.tasks.registry import typed
from attentune.tasks.task import Task


def stream(
    task: Task,
    path: str,
    data: DataSpec,
    *,
    answers: bool,
    skip: int = 0,
    like: TableShape | None = None,
    progress: Progress | None = None,
) -> Iterator[Record]:
    """The records of a file (`-`: the standard input) after the first `skip`, one at a time.

    They have the columns that the task asks for, with `answers` those of training. `like` is the table that the
    model was trained on. `progress` is told (bytes read, bytes in all).

    Raises:
        DataError: see `iterate_records`.
    """
    columns = task.columns if answers else task.asked
    records = iterate_records(
        path,
        columns,
        format=data.format,
        header=data.header,
        encoding=data.encoding,
        skip=skip,
        like=like,
        progress=progress,
    )
    return _explained(records, task) if answers else records


def _explained(records: Iterator[Record], task: Task) -> Iterator[Record]:
    """The records; where a column is missing, the error says which option of the task names it."""
    try:
        yield from records
    except MissingColumnError as error:
        named = [name for name in type(task).model_fields if getattr(task, name) == error.column]
        if named:
            raise DataError(f"{error}. Name the one that is meant: {typed(task.kind)}({named[0]}=...)") from None
        raise


def read(
    task: Task, path: str, data: DataSpec, *, like: TableShape | None = None, progress: Progress | None = None
) -> list[Record]:
    """All records of a file that a training can learn from, with its columns; see `stream`.

    A `DataWarning` counts those that are left out although they are not blank.
    """
    kept, left = [], 0
    for record in stream(task, path, data, answers=True, like=like, progress=progress):
        if task.usable(record):
            kept.append(record)
        elif any(str(record[column] or "").strip() for column in task.columns):
            left += 1
    if left:
        whole = len(kept) + left
        warnings.warn(
            f"{path}: {left} of {whole} records are too short for the task: left out", DataWarning, stacklevel=2
        )
    if not kept:
        raise DataError(f"{path} holds no record that the task {task.kind} could learn from")
    return kept


def drawn_apart(task: Task, records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Records to train on, and a share to validate with: always the same one, drawn as suits the task."""
    column = kept_together(task, records)
    if column is None:  # the first that they have, or none of them has: what is wrong with it is said there
        names = task.drawn_whole
        column = next((name for name in names if records and name in records[0].values), next(iter(names), None))
    return split(records, share, by=task.drawn_by, group=column)


def kept_together(task: Task, records: Sequence[Record]) -> str | None:
    """The column of which equal values stay together when records are drawn: the first of `task.drawn_whole` that all
    have, with several values. Values are the same that differ in white space or capital letters alone."""
    for name in task.drawn_whole:
        if all(name in one.values for one in records) and len({mark(one, (name,)) for one in records}) > 1:
            return name
    return None
