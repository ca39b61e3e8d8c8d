"""Rows of tables, one at a time: JSON lines, comma- or tab-separated values, Parquet, plain lines."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Literal

from attentune.data.columns import Choice
from attentune.data.record import missing_column
from attentune.data.shape import MOST_SHOWN, is_header, shortened
from attentune.data.streams import DataFile
from attentune.errors import DataError, MissingExtraError

Rows = Generator[tuple[int, dict[str, Any]], None, None]
"""The line that a row begins at, counted from 1 (of Parquet the row), and its values by column."""

_SEPARATORS = ",;\t"
_LOOKED_AT = 50  # rows that a separator has to cut alike
_LONGEST_CELL = 2**31 - 1  # a document may be longer than the csv module's 128 KiB
_BATCH = 1024  # rows of Parquet at a time
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # perhaps


def json_rows(file: DataFile, codec: str, names: Sequence[str], *, others: bool = True, skip: int = 0) -> Rows:
    """The objects of `file`, one a line, after the first `skip`, each of which must have `names`; blank lines are none.

    Raises:
        DataError: a line that is no JSON object, or lacks a column.
    """
    for number, line in enumerate(file.lines(codec), start=1):
        if not line.strip():
            continue
        if skip:
            skip -= 1
            continue
        where = f"{file.name}, line {number}"
        row = parsed_json(line, where)
        if not isinstance(row, dict):
            raise DataError(f"{where} is not a JSON object but {type(row).__name__}; every line must be one object")
        yield number, chosen(row, names, where, others=others)


def parsed_json(text: str, where: str) -> Any:
    """What `text` holds.

    Raises:
        DataError: it is no JSON, is nested too deeply, or holds half a surrogate pair, which is no character.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        whole = text.rstrip()
        place = f"line {error.lineno}" if "\n" in whole else f"character {min(error.pos, len(whole)) + 1}"
        raise DataError(f"{where} is not JSON: {error.msg} at {place}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    if _HALF_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(f"{where} holds half a surrogate pair, which is no character; repair the file") from None
    return value


def chosen(row: dict[str, Any], names: Sequence[str], where: str, *, others: bool) -> dict[str, Any]:
    """The columns `names` of `row`, and the others if they are wanted. Raises DataError where one is missing."""
    for name in names:
        if name not in row:
            raise missing_column(where, name, row)
    return row if others else {name: row[name] for name in names}


def separated_rows(file: DataFile, codec: str, choice: Choice, *, tabs: bool, skip: int = 0) -> Rows:
    r"""The rows of `file` after the first `skip`, the header not counted; blank lines are none.

    Commas separate, or semicolons or tabs where they cut the first rows into as many fields each. With `tabs`, these
    do, and quotes mean nothing unless the file parses only when they do.

    Raises:
        DataError: no such column, a row longer or shorter than the first (with its line), broken quotes.
    """
    separator, quoted = _dialect(file, codec, tabs=tabs)
    with contextlib.closing(_cells(file, codec, separator, quoted=quoted)) as rows:
        begun = next(rows, None)
        if begun is None:
            return
        header = choice.has_header
        about = f"{file.name} (whose first line is taken as its header)" if header else file.name
        places = choice.places(begun[1], about).items()
        data: Iterable[tuple[int, list[str]]] = rows
        if not header:
            data = itertools.chain([begun], rows if choice.header is False else _without_header(file, begun[1], rows))
        for line, cells in itertools.islice(data, skip, None):
            yield line, {name: cells[place] for name, place in places}


def _without_header(
    file: DataFile, first: list[str], rows: Iterator[tuple[int, list[str]]]
) -> Iterable[tuple[int, list[str]]]:
    """The `rows` as they are. Raises DataError where the `first` looks like a header of theirs."""
    looked_at = list(itertools.islice(rows, _LOOKED_AT))
    if is_header(first, [cells for _, cells in looked_at]):
        raise DataError(
            f"{file.name} is read without a header, as its columns go by their numbers, but its first line looks like "
            f"one ({', '.join(map(shortened, first[:MOST_SHOWN]))}): say which it is with --header yes or no, in "
            "training with --data.header True or False"
        )
    return itertools.chain(looked_at, rows)


def _dialect(file: DataFile, codec: str, *, tabs: bool) -> tuple[str, bool]:
    """The separator, and whether quotes mean something."""
    if not tabs:
        first = next((line for line in file.lines(codec) if line.strip()), "")
        marks = [mark for mark in _SEPARATORS if mark in first] or [","]
        return next((mark for mark in marks if _cuts_alike(file, codec, mark)), marks[0]), True
    try:
        for _ in _cells(file, codec, "\t", quoted=False):
            pass
    except DataError:
        try:
            for _ in _cells(file, codec, "\t", quoted=True):
                pass
        except DataError:
            return "\t", False  # whose error is the one to tell
        return "\t", True
    return "\t", False


def _cuts_alike(file: DataFile, codec: str, separator: str) -> bool:
    with contextlib.closing(_cells(file, codec, separator, quoted=True)) as rows:
        try:
            return all(len(cells) > 1 for _, cells in itertools.islice(rows, _LOOKED_AT))
        except DataError:
            return False


def _cells(file: DataFile, codec: str, separator: str, *, quoted: bool) -> Generator[tuple[int, list[str]], None, None]:
    """The fields of each row, and the line it begins at."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with contextlib.closing(file.lines(codec)) as lines:
        reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
        width, begin = 0, 1
        while True:
            limit = csv.field_size_limit(_LONGEST_CELL)  # it is the whole process's
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                line = reader.line_num
                since = "" if begin == line else f", in the row that begins at line {begin}"
                raise DataError(f"{file.name}, line {line}: {error}{since}") from None
            finally:
                csv.field_size_limit(limit)
            width = width or len(cells)
            if cells and len(cells) != width:
                raise DataError(
                    f"{file.name}, line {begin} has {len(cells)} fields but the first line has {width}; "
                    "quote fields that hold the separator, or repair the line"
                )
            if cells:
                yield begin, cells
            begin = reader.line_num + 1


def parquet_rows(file: DataFile, choice: Choice, *, skip: int = 0) -> Rows:
    """The rows of `file` after the first `skip`, as plain data: times and decimal numbers are text.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a damaged file, no such column, or one that holds bytes.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise MissingExtraError(f"reading {file.name} needs pyarrow: pip install 'attentune[parquet]'") from None
    with file.opened() as stream:
        try:
            # Parquet is read from its end, for which a packed file would be unpacked again and again.
            table = pyarrow.parquet.ParquetFile(
                io.BytesIO(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
            )
            names, types = table.schema_arrow.names, table.schema_arrow.types
            places = {}
            for name, place in choice.places(names, file.name).items():
                if not _is_bytes(pyarrow.types, types[place]):
                    places[name] = place
                elif not choice.others or name in choice.names:
                    raise DataError(f"{file.name}: column {name!r} holds {types[place]}, which is no text")
            groups, number = list(range(table.num_row_groups)), 0
            while groups and number + (rows := table.metadata.row_group(groups[0]).num_rows) <= skip:
                groups.pop(0)
                number += rows
            wanted = [names[place] for place in dict.fromkeys(places.values())]
            for batch in table.iter_batches(_BATCH, row_groups=groups, columns=wanted):
                columns = {name: _plain(batch.column(names[place]).to_pylist()) for name, place in places.items()}
                for row in range(batch.num_rows):
                    number += 1
                    if number > skip:
                        yield number, {name: values[row] for name, values in columns.items()}
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file.name} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _is_bytes(types: Any, kind: Any) -> bool:
    """Whether it holds bytes, be it in a list or a mapping."""
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    inner += [kind.value_type] if types.is_dictionary(kind) else []
    own = any(is_kind(kind) for is_kind in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary))
    return own or any(_is_bytes(types, each) for each in inner)


def _plain(value: Any) -> Any:
    """Plain data of what Arrow gives: times and decimal numbers as text, in lists and mappings too."""
    if isinstance(value, dict):
        return {name: _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def table_line(cells: Sequence[Any]) -> str:
    """The cells as a line of CSV, from which any reader gets them back."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow(cells)  # whose own line end makes it quote a lone carriage return as well
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def line_rows(file: DataFile, codec: str, name: str, *, skip: int = 0) -> Rows:
    r"""Each line of `file` after the first `skip` as the one column `name`, empty ones too.

    Lines end at `\n` or `\r\n` alone: other characters that break lines stand inside sentences of parallel texts.
    """
    for number, line in enumerate(file.lines(codec, returns=False), start=1):
        if number > skip:
            yield number, {name: line.removesuffix("\n").removesuffix("\r")}
