"""One column of a table: JSON lines, comma- or tab-separated values, Parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Any, Literal

from attentune.errors import DataError, MissingExtraError, near

_USUAL_COLUMN = "text"  # read when the user names none


def json_lines(text: str, *, source: str, column: str | None) -> list[str]:
    """The strings that the objects of `text`, one a line, hold under `column` (None: `text`).

    A list of strings is joined by line ends; null and empty strings are left out; so are blank lines.

    Raises:
        DataError: a line that is no JSON object, or lacks the column, or holds no text in it.
    """
    documents = []
    wanted = column or _USUAL_COLUMN
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where} is not a JSON object but {type(row).__name__}; every line must be one object")
        if wanted not in row:
            raise _missing(where, column, list(row))
        documents.append(_json_text(row[wanted], where, wanted))
    return [document for document in documents if document]


def _json_text(value: Any, where: str, column: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    raise DataError(f"{where}: column {column!r} holds {type(value).__name__}, not text")


def separated_values(text: str, *, source: str, column: str | None, tabs: bool) -> list[str]:
    r"""The cells of `column` below the header, the empty ones left out.

    `column` None takes the only column there is, else the one called `text`. Commas separate, or, in a header without
    commas, semicolons or tabs. With `tabs`, quotes mean nothing unless the file parses only when they do.

    Raises:
        DataError: no such column, a row longer or shorter than the header (with its line), broken quotes.
    """
    header = text.partition("\n")[0]
    if tabs:
        try:
            rows = _rows(text, source, "\t", quoted=False)
        except DataError as plain:
            try:
                rows = _rows(text, source, "\t", quoted=True)
            except DataError:
                raise plain from None
    else:
        delimiter = next((mark for mark in ",;\t" if mark in header), ",")
        rows = _rows(text, source, delimiter, quoted=True)
    names = rows[0]
    if column is None and len(names) == 1:
        index = 0
    else:
        wanted = column or _USUAL_COLUMN
        if wanted not in names:
            raise _missing(f"{source} (whose first line is taken as its header)", column, names)
        index = names.index(wanted)
    return [row[index] for row in rows[1:] if row[index]]


def _rows(text: str, source: str, delimiter: str, *, quoted: bool) -> list[list[str]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    limit = csv.field_size_limit(sys.maxsize)  # a document may be longer than the csv module's 128 KiB
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue
            if rows and len(row) != len(rows[0]):
                raise DataError(
                    f"{source}, line {reader.line_num} has {len(row)} fields but the header has {len(rows[0])}; "
                    "quote fields that hold the separator, or repair the line"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError(f"{source} has no header and no rows")
    return rows


def parquet(data: bytes, *, source: str, column: str | None) -> list[str]:
    """The values of the text column `column` (None: the only column, else `text`); null and empty ones left out.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a damaged file, no such column, or a column that holds no text.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise MissingExtraError(f"reading {source} needs pyarrow: pip install 'attentune[parquet]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        wanted = names[0] if column is None and len(names) == 1 else column or _USUAL_COLUMN
        if wanted not in names:
            raise _missing(source, column, names)
        kind = file.schema_arrow.field(wanted).type
        plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(plain) or pyarrow.types.is_large_string(plain)):
            raise DataError(f"{source}: column {wanted!r} holds {kind}, not text")
        values = file.read(columns=[wanted]).column(wanted).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return [value for value in values if value]


def _missing(where: str, column: str | None, names: list[str]) -> DataError:
    if column is None:
        return DataError(f"{where} has no column {_USUAL_COLUMN!r}; name the one to read: {', '.join(names)}")
    return DataError(f"{where} has no column {column!r}; {near(column, names)}")
