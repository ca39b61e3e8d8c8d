"""A file of predictions that grows block by block, and goes on after a kill where its last whole block ends.

Beside OUTPUT stand, until it is whole, OUTPUT.partial with the blocks so far and OUTPUT.partial.json, which says how
many records and bytes they are. A block is forced to the disk before it is counted: what a kill leaves behind the
counted bytes is cut off. At the end OUTPUT.partial becomes OUTPUT.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, final

from attentune.data.records import Record
from attentune.data.tables import table_line
from attentune.errors import DataError, StorageError
from attentune.models.storage import atomic_write, storage_errors
from attentune.tasks.task import Prediction

Format = Literal["jsonl", "csv"]


def row_of(record: Record, prediction: Prediction, *, bare: bool) -> dict[str, Any]:
    """What is written of a record: its columns, unless `bare`, and the prediction.

    Raises:
        DataError: a column of the record is called as one of the prediction.
    """
    answer = prediction.as_data()
    if bare:
        return answer
    if both := sorted(answer.keys() & record.values.keys()):
        raise DataError(
            f"{record.where} has a column {both[0]!r}, as the prediction has; rename it, or write the predictions "
            "alone (--bare)"
        )
    return {**record.values, **answer}


@final
class Rows:
    """Rows as text: JSON lines, or CSV whose header the first row decides; what is no text or number is JSON there."""

    def __init__(self, format: Format, header: Sequence[str] | None = None) -> None:
        self.format, self.header = format, None if header is None else tuple(header)

    def text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The rows, each with its line end, and before the very first row the header.

        Raises:
            DataError: a row has columns that the header lacks.
        """
        if self.format == "jsonl":
            return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
        lines = []
        if self.header is None and rows:
            self.header = tuple(rows[0])
            lines.append(table_line(self.header))
        for row in rows:
            if odd := sorted(row.keys() - set(self.header or ())):
                raise DataError(
                    f"a row has a column {odd[0]!r} that the first has not; write JSON lines (--format jsonl)"
                )
            lines.append(table_line([_cell(row.get(name, "")) for name in self.header or ()]))
        return "".join(lines)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)


def paths_of(output: str | Path) -> tuple[Path, Path, Path]:
    """The files that an `AnswerFile` writes: the output, and what stands beside it until it is whole.

    Of a symbolic link it is what the link leads to.
    """
    whole = Path(os.path.realpath(output)) if os.path.islink(output) else Path(output)
    return whole, whole.with_name(f"{whole.name}.partial"), whole.with_name(f"{whole.name}.partial.json")


@final
class AnswerFile:
    """`output` in the making. `identity` is what must be the same for a resumption: the model, the input, the format.

    Raises:
        StorageError: it cannot be written, or what stands there is of another model or input.
    """

    def __init__(self, output: str | Path, identity: Mapping[str, Any], *, format: Format, resume: bool = True) -> None:
        self.output, self.partial, self.state = paths_of(output)
        self._identity = json.loads(json.dumps(dict(identity)))
        self.records = self.bytes = 0
        header: list[str] | None = None
        with storage_errors(self.output):
            if self.output.is_dir():
                raise StorageError(f"cannot write {self.output}: it is a folder; name a file")
            if self.output.exists() and not self.output.is_file():
                raise StorageError(
                    f"cannot write {self.output}: it is a device or a pipe, not a file; name a file, or - for the "
                    "standard output"
                )
            if not self.output.parent.is_dir():
                raise StorageError(
                    f"cannot write {self.output}: there is no folder {self.output.parent}; make it first"
                )
            if resume and self.state.is_file() and self.partial.is_file():
                self.records, self.bytes, header = self._read_state()
            self._file: IO[bytes] = self.partial.open("r+b" if self.bytes else "wb")
            self._file.truncate(self.bytes)
            self._file.seek(self.bytes)
        self.rows = Rows(format, header)

    def _read_state(self) -> tuple[int, int, list[str] | None]:
        try:
            held = json.loads(self.state.read_text(encoding="utf-8"))
            identity, records, bytes_, header = (held[name] for name in ("identity", "records", "bytes", "header"))
        except (ValueError, KeyError, TypeError):
            raise StorageError(f"{self.state} is damaged; remove it or start over (--restart)") from None
        if identity != self._identity:
            names = [name for name in self._identity if identity.get(name) != self._identity[name]]
            raise StorageError(
                f"{self.partial} was begun with another {', '.join(names) or 'version'}; go on with the same, name "
                "another output, or start over (--restart)"
            )
        if self.partial.stat().st_size < bytes_:
            raise StorageError(f"{self.partial} is shorter than it was; start over (--restart)")
        return records, bytes_, header

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds a block, whole or not at all."""
        data = self.rows.text(rows).encode("utf-8", "replace")
        with storage_errors(self.output):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.records, self.bytes = self.records + len(rows), self.bytes + len(data)
        header = None if self.rows.header is None else list(self.rows.header)
        state = {"identity": self._identity, "records": self.records, "bytes": self.bytes, "header": header}
        atomic_write(self.state, json.dumps(state))

    def close(self, *, whole: bool) -> None:
        """Ends the writing; where it is `whole`, the output gets its name."""
        self._file.close()
        if not whole and not self.records:
            self.partial.unlink(missing_ok=True)
        if whole:
            with storage_errors(self.output):
                os.replace(self.partial, self.output)
                self.state.unlink(missing_ok=True)
