"""The work of `attentune predict`: records in, predictions out, block by block."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attentune.cli.console import Report, activity, print_json
from attentune.cli.loading import pick_device
from attentune.cli.predict import Options
from attentune.cli.words import UsageError
from attentune.data.records import Record, files_of
from attentune.data.shape import TableShape
from attentune.mechanisms import load_plugin, registry
from attentune.spec.run import DataSpec
from attentune.tasks.answers import AnswerFile, Format, Rows, paths_of, row_of
from attentune.tasks.folder import TaskModel, load
from attentune.tasks.reading import stream

STANDARD, PIPED = "-", "/dev/stdin"  # where a system has no such name, nothing is found to be the same
TAKEN = (".tsv", ".tab", ".json", ".gz", ".parquet", ".pq", ".xls", ".xlsx", ".ods", ".zip")  # endings of other formats
HEADER = {"auto": None, "yes": True, "no": False}


def predict(options: Options) -> None:
    """Predict the records of the input, and write them to the output."""
    if options.json_ and options.output == STANDARD:
        raise UsageError("--json prints a summary where the predictions go; name a file with --output")
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    model = load(options.model, device=pick_device(options.device))
    if options.output == STANDARD:
        _to_standard_output(options, model)
        return
    files = files_of(options.input, model.fitted.task.asked, format=options.input_format)
    _refuse_overwriting(options, files)
    begun = time.perf_counter()
    resume = not options.restart and options.input != STANDARD  # what was piped in cannot be read again
    file = AnswerFile(options.output, _identity(options, model, files), format=_format(options), resume=resume)
    before, whole = file.records, False
    try:
        with activity("predicting", percent=True) as report:
            for rows in _blocks(options, model, skip=file.records, report=report, done=file.records):
                file.append(rows)
        whole = True
    finally:
        file.close(whole=whole)
    seconds = time.perf_counter() - begun
    if options.json_:
        print_json({"output": options.output, "records": file.records, "resumed_at": before, "seconds": seconds})
    else:
        went_on = f", the first {before:,} of them earlier" if before else ""
        print(f"{options.output}: {file.records:,} records{went_on} in {seconds:.1f} s", file=sys.stderr)


def _refuse_overwriting(options: Options, files: Sequence[Path]) -> None:
    """Raises UsageError where a file of the input is one that is written, under whatever name, or the output exists.

    With --restart a file that stands there is replaced, but never the input.
    """
    read = [Path(PIPED)] if options.input == STANDARD else files  # a file may stand behind the standard input too
    for written in paths_of(options.output):
        for file in read:
            if file.exists() and written.exists() and file.samefile(written):
                same = "" if written == file else f" ({written} is {file})"
                raise UsageError(f"--output {options.output} would overwrite the input{same}; name another file")
    whole, partial, _ = paths_of(options.output)
    if whole.is_file() and not partial.exists() and not options.restart:
        raise UsageError(f"{whole} exists already; name another output, or replace it (--restart)")
    if options.input == STANDARD and partial.exists() and not options.restart:
        raise UsageError(
            f"{partial} was begun, and what was piped in cannot go on; name another output, or replace it (--restart)"
        )


def _to_standard_output(options: Options, model: TaskModel) -> None:
    rows = Rows(_format(options))
    with activity("predicting", percent=True) as report:
        for block in _blocks(options, model, skip=0, report=report, done=0):
            sys.stdout.write(rows.text(block))
            sys.stdout.flush()


def _blocks(options: Options, model: TaskModel, *, skip: int, report: Report, done: int) -> Any:
    size = 0
    read = 0

    def told(position: int, whole: int) -> None:
        nonlocal size, read
        read, size = position, whole

    data = DataSpec(encoding=options.encoding, header=HEADER[options.header], format=options.input_format)
    task = model.fitted.task
    like = TableShape.read(model.config)
    records = stream(task, options.input, data, answers=False, skip=skip, like=like, progress=told)
    for block in model.predict_blocks(records, options.block):
        yield [row_of(_as_it_came(record, task.asked), answer, bare=options.bare) for record, answer in block]
        done += len(block)
        report(read, size, f"{done:,} records")


def _as_it_came(record: Record, asked: Sequence[str]) -> Record:
    """The record without what it holds twice: a column with a name that was asked for by its number."""
    shape = TableShape.of(record, asked)
    return record if shape is None else Record({name: record[name] for name in shape.names}, record.where)


def _format(options: Options) -> Format:
    if options.format is not None:
        return options.format
    ending = Path(options.output).suffix.lower()
    if ending in TAKEN:
        raise UsageError(
            f"cannot write {options.output}: predictions are JSON lines (.jsonl) or CSV (.csv); name such a file, or "
            "say --format"
        )
    return "csv" if ending == ".csv" else "jsonl"


def _identity(options: Options, model: TaskModel, files: Sequence[Path]) -> dict[str, Any]:
    """What decides the output."""
    given: dict[str, Any] = {"path": options.input}
    stands = [file.stat() for file in files if file.exists()]
    given |= {"bytes": [one.st_size for one in stands], "changed": [one.st_mtime_ns for one in stands]}
    return {
        "model": model.config.get("weights"),
        "input": {**given, "encoding": options.encoding, "header": options.header, "format": options.input_format},
        "format": [_format(options), options.bare],
    }
