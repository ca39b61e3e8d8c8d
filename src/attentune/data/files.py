"""Files to documents: plain text, folders, gzip, JSON lines, CSV, TSV, Parquet."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from attentune.data.encoding import DataWarning, NotTextError, decode_text
from attentune.data.tables import json_lines, parquet, separated_values
from attentune.errors import DataError, near

Progress = Callable[[int, int], None]
"""Told (done, total) as work goes on; both in units of the caller's own kind (bytes, characters)."""

_JSON_LINES = (".jsonl", ".ndjson")
_SEPARATED = (".csv", ".tsv")
_PARQUET = (".parquet", ".pq")
_TABLES = (*_JSON_LINES, *_SEPARATED, *_PARQUET)
_GZIP_MARK = b"\x1f\x8b"


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
    _require_file(path)
    if column is not None and _kind(path) not in _TABLES:
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


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.exists():
        raise DataError(f"{path} is neither a file nor a folder; give one of these")
    parent = path.parent
    if not parent.is_dir():
        raise DataError(f"{path} does not exist, nor does its folder {parent}")
    hint = near(path.name, [entry.name for entry in parent.iterdir()]).partition("known:")[0].strip()
    raise DataError(f"{path} does not exist; {hint}" if hint else f"{path} does not exist")


def _read_folder(folder: Path, column: str | None, encoding: str | None, progress: Progress | None) -> list[str]:
    paths = _files_below(folder)
    if not paths:
        raise DataError(f"the folder {folder} holds no files")
    if column is not None and not any(_kind(path) in _TABLES for path in paths):
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


def _kind(path: Path) -> str:
    """The ending that tells the format, below `.gz`."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _read_file(path: Path, column: str | None, encoding: str | None) -> list[str]:
    """The documents of one file; an empty one has none."""
    data = _read_bytes(path)
    if not data:
        return []
    source, kind = str(path), _kind(path)
    if kind in _PARQUET:
        documents = parquet(data, source=source, column=column)
    else:
        text = decode_text(data, source=source, encoding=encoding)
        if not text.strip():
            return []
        if kind in _JSON_LINES:
            documents = json_lines(text, source=source, column=column)
        elif kind in _SEPARATED:
            documents = separated_values(text, source=source, column=column, tabs=kind == ".tsv")
        else:
            return [text]
    return [_whole(document, source, number) for number, document in enumerate(documents, start=1)]


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz" or data.startswith(_GZIP_MARK):
            data = gzip.decompress(data) if data else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    return data


def _whole(document: str, source: str, number: int) -> str:
    """JSON can hold half a surrogate pair, which is no character and has no bytes."""
    if not document.isascii():
        try:
            document.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{source}, text {number} holds half a surrogate pair at character {error.start}; repair the file"
            ) from None
    return document.replace("\r\n", "\n").replace("\r", "\n") if "\r" in document else document
