"""Files to documents: plain text, folders, gzip, JSON lines, CSV, TSV, Parquet."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from attentune.data.columns import USUAL_COLUMN, DocumentColumn
from attentune.data.encoding import DataWarning, NotTextError, decode_text
from attentune.data.record import Record
from attentune.data.streams import DataFile, Progress, ending, require_file
from attentune.data.tables import Rows, json_rows, parquet_rows, separated_rows
from attentune.errors import DataError

__all__ = ["Progress", "read_documents"]

_JSON_LINES = (".jsonl", ".ndjson")
_SEPARATED = (".csv", ".tsv")
_PARQUET = (".parquet", ".pq")
_TABLES = (*_JSON_LINES, *_SEPARATED, *_PARQUET)


def read_documents(
    source: str | os.PathLike[str],
    *,
    column: str | None = None,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    r"""The texts that `source` holds, in a fixed order, with `\n` line ends and none of them empty.

    A plain text file is one document; a row of a table (`.jsonl`, `.ndjson`, `.csv`, `.tsv`, `.parquet`, `.pq`) is
    one; a folder is read recursively, its files sorted by their path inside it. Each may be gzip-compressed.
    In a folder, hidden files are passed over, and files that hold no text (binary or empty) are skipped with a
    `DataWarning` that lists them; given by name, they are errors.

    Args:
        source: a file or a folder.
        column: the column of tables; None takes the only one, or the one called `text`.
        encoding: a codec name of Python for all files, or None to detect each.
        progress: told (bytes read, bytes in all), in bytes on the disk.

    Raises:
        DataError: `source` is missing, empty, undecodable, malformed, or lacks the column.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, column, encoding, progress)
    require_file(path)
    if column is not None and ending(path) not in _TABLES:
        raise DataError(
            f"{path} is read as plain text and has no column {column!r}; columns are for {', '.join(_TABLES)}"
        )
    documents = _read_file(path, column, encoding)
    if not documents:
        raise DataError(f"{path} holds no text")
    if progress is not None:
        size = path.stat().st_size
        progress(size, size)
    return documents


def _read_folder(folder: Path, column: str | None, encoding: str | None, progress: Progress | None) -> list[str]:
    paths = _files_below(folder)
    if not paths:
        raise DataError(f"the folder {folder} holds no files")
    if column is not None and not any(ending(path) in _TABLES for path in paths):
        raise DataError(f"the folder {folder} holds no table to take column {column!r} from; leave the column out")
    total = sum(path.stat().st_size for path in paths)
    done = 0
    documents: list[str] = []
    skipped: list[str] = []
    for path in paths:
        try:
            found = _read_file(path, column, encoding)
        except NotTextError:
            found = []
        if not found:
            skipped.append(str(path.relative_to(folder)))
        documents += found
        done += path.stat().st_size
        if progress is not None:
            progress(done, total)
    if not documents:
        raise DataError(f"the folder {folder} holds no text: {_listed(skipped)} empty or binary")
    if skipped:
        warnings.warn(f"skipped in {folder}: {_listed(skipped)} empty or binary", DataWarning, stacklevel=3)
    return documents


def _files_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list the folder {error.filename}: {error.strerror}") from None

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in files if not name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(folder).parts)


def _listed(names: list[str], shown: int = 5) -> str:
    text = ", ".join(names[:shown])
    if len(names) > shown:
        text += f" and {len(names) - shown} more"
    return f"{text} {'is' if len(names) == 1 else 'are'}"


def _read_file(path: Path, column: str | None, encoding: str | None) -> list[str]:
    """The documents of one file; an empty one has none."""
    file = DataFile(path)
    kind = file.kind
    if kind not in _TABLES:
        text = decode_text(file.read(), source=file.name, encoding=encoding)
        return [text] if text.strip() else []
    rows = _rows(file, kind, column, encoding)
    documents = (
        _document(values, f"{file.name}, {'row' if kind in _PARQUET else 'line'} {line}") for line, values in rows
    )
    return [document for document in documents if document]


def _rows(file: DataFile, kind: str, column: str | None, encoding: str | None) -> Rows:
    """The rows of a table, of which each has the one column of documents."""
    choice = DocumentColumn(() if column is None else (column,))
    if kind in _PARQUET:
        return parquet_rows(file, choice)
    codec = file.codec(encoding)
    if kind in _JSON_LINES:
        return json_rows(file, codec, (column or USUAL_COLUMN,), others=False)
    return separated_rows(file, codec, choice, tabs=kind == ".tsv")


def _document(values: dict[str, object], where: str) -> str:
    """A list of texts is joined by line ends; null is an empty text."""
    ((column, value),) = values.items()
    text = "" if value is None else "\n".join(Record(values, where).texts(column))
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
