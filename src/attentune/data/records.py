"""Files to records: one reader for tables, parallel lines, tagged sentences and questions."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from attentune.data.columns import Columns
from attentune.data.conll import TAGS, TOKENS, conll_records, has_tokens
from attentune.data.record import Record, missing_column
from attentune.data.shape import TableShape
from attentune.data.squad import ANSWERS, is_squad, squad_records
from attentune.data.streams import STANDARD_INPUT, DataFile, Progress
from attentune.data.tables import (
    Rows,
    chosen,
    json_rows,
    line_rows,
    parquet_rows,
    parsed_json,
    separated_rows,
)
from attentune.errors import DataError, near

__all__ = ["Format", "Record", "files_of", "iterate_records", "read_records"]

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "lines", "conll"]
"""`json` is a list of objects, or a file of SQuAD; `lines` has one text a line."""

_FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bioes": "conll",
    ".bmes": "conll",
}
_MARKS: tuple[tuple[str, Format], ...] = (("\t", "tsv"), (",", "csv"))
_PROGRESS_EVERY = 1000  # records
_LOOKED_AT = 1 << 16  # characters of a first line
_FIRST = 20  # lines that show whether there are columns


def read_records(
    source: str | os.PathLike[str],
    columns: Sequence[str | int] = (),
    *,
    format: Format | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """All records of `source`: see `iterate_records`."""
    found = iterate_records(source, columns, format=format, header=header, encoding=encoding, progress=progress)
    return list(found)


def iterate_records(
    source: str | os.PathLike[str],
    columns: Sequence[str | int] = (),
    *,
    format: Format | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    skip: int = 0,
    like: TableShape | None = None,
    progress: Progress | None = None,
) -> Iterator[Record]:
    """The records of `source` in their order, one at a time, in memory that does not grow with it.

    - CSV, TSV, JSON lines and Parquet (`.csv`, `.tsv`, `.tab`, `.jsonl`, `.ndjson`, `.parquet`, `.pq`): a row each.
    - One token a line (`.conll`, `.bio` and the like, or whatever is asked for `tokens` and `tags`): see `read_conll`.
      Of another name, a file that is asked for `tokens` alone is read so where its first lines have tabs, or tags of
      entities at their ends, `O` among them, or one token each with blank lines between; else a line is a text. Where
      all have one word, or equally many, that cannot be told and is refused.
    - `.json`: a list of objects, or questions in the form of SQuAD, for which see `read_squad`. Only this form and
      Parquet that is packed once more are held in memory as a whole.
    - Lines: a file of any other name of which one column is asked for, by whatever name, has a text a line.
    - Parallel lines: where `source` is no file, but `source.de` and `source.en` are, perhaps with `.gz` behind,
      `columns` `de` and `en` are read side by side.

    A file with none of these endings is taken for what its first line shows, or is refused. Each may be
    gzip-compressed. Values are text in all forms but JSON and Parquet, where they
    are what they are.

    Args:
        source: a file, the start of the names of parallel files, or `-` for the standard input.
        columns: those that every record must have. Others are kept too. Where they are numbers, from 1, CSV and TSV
            have no header unless `header` says so, and the columns go by their numbers.
        format: how the file is to be read, or None to see.
        header: of CSV and TSV, whether the first line names the columns. None: it does, unless `columns` are numbers;
            then a first line that looks like names is refused.
        encoding: a codec name of Python, or None to detect it.
        skip: records to leave out at the start; more than there are is no error.
        like: the table that numbers among `columns` were chosen in: one of another shape is refused, and where
            `header` is None there is a header if there was one. It is for CSV, TSV and Parquet.
        progress: told (bytes read, bytes in all) on the disk, every thousand records and at the end.

    Raises:
        DataError: at once if there is no such file or the options do not fit it; while iterating if it is empty or
            malformed, with its line.
        MissingExtraError: Parquet without pyarrow.
    """
    names = tuple(map(str, columns))
    if skip < 0:
        raise DataError(f"skip must be at least 0, got {skip}")
    if format is not None and format not in _FORMATS:
        raise DataError(f"no format is called {format!r}; {near(format, _FORMATS)}")
    sides = _sides(source, names) if format in (None, "lines") else {}
    if sides:
        _refuse("parallel lines", header=header)
        files = {name: DataFile(path) for name, path in sides.items()}
        return _watched(_parallel(files, encoding, skip), list(files.values()), str(source), skip, progress)
    _refuse_folder_of_sides(source, names)
    file = DataFile(source)
    kind = format or _ENDINGS.get(file.kind) or _shown_format(file, names, header, encoding, like)
    if kind not in ("csv", "tsv"):
        _refuse(kind, header=header)
    if kind == "parquet" and encoding is not None:
        raise DataError(f"{file.name} is read as Parquet, which has no encoding to name; leave it out")
    if kind == "lines" and len(names) != 1:
        raise DataError(f"{file.name} is read as lines, which have one column; got {len(names)}: {', '.join(names)}")
    records = _records(file, kind, names, header, encoding, skip, like)
    return _watched(records, [file], file.name, skip, progress)


def files_of(
    source: str | os.PathLike[str], columns: Sequence[str | int] = (), *, format: Format | None = None
) -> list[Path]:
    """The files that `iterate_records` reads there, such as both sides of parallel lines; none of the standard input.

    Raises:
        DataError: one of the sides is missing.
    """
    if source == STANDARD_INPUT:
        return []
    sides = _sides(source, tuple(map(str, columns))) if format in (None, "lines") else {}
    return list(sides.values()) or [Path(source)]


def _refuse(what: str, *, header: bool | None) -> None:
    if header is not None:
        raise DataError(f"header is for CSV and TSV, and this is read as {what}; leave it out or name the format")


def _watched(
    records: Iterator[Record], files: list[DataFile], name: str, skip: int, progress: Progress | None
) -> Iterator[Record]:
    """Tells the progress, and that a file without records is an error."""
    size = sum(file.size for file in files) if progress is not None else 0
    number = 0
    for number, record in enumerate(records, start=1):
        yield record
        if progress is not None and number % _PROGRESS_EVERY == 0:
            progress(min(size, sum(file.position for file in files)), size)
    if number == 0 and skip == 0:
        raise DataError(f"{name} holds no records")
    if progress is not None:
        progress(size, size)


def _records(
    file: DataFile,
    kind: Format,
    names: tuple[str, ...],
    header: bool | None,
    encoding: str | None,
    skip: int,
    like: TableShape | None,
) -> Iterator[Record]:
    if kind == "parquet":
        return _placed(parquet_rows(file, Columns(names, header=True, like=like), skip=skip), file, "row")
    codec = file.codec(encoding)
    if kind == "json":
        return _json_records(file, codec, names, skip)
    if kind == "conll":
        return _having(names, conll_records(file, codec, raw=TAGS not in names, skip=skip))
    if kind == "jsonl":
        rows = json_rows(file, codec, names, skip=skip)
    elif kind == "lines":
        rows = line_rows(file, codec, names[0], skip=skip)
    else:
        if header is None and like is not None and like.has_header:
            header = True
        rows = separated_rows(file, codec, Columns(names, header, like=like), tabs=kind == "tsv", skip=skip)
    return _placed(rows, file, "line")


def _placed(rows: Rows, file: DataFile, unit: str) -> Iterator[Record]:
    return (Record(values, f"{file.name}, {unit} {number}") for number, values in rows)


def _having(names: tuple[str, ...], records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        for name in names:
            if name not in record.values:
                raise missing_column(record.where, name, record.values)
        yield record


def _json_records(file: DataFile, codec: str, names: tuple[str, ...], skip: int) -> Iterator[Record]:
    text = "".join(file.lines(codec, returns=False))
    document: Any = parsed_json(text, file.name) if text.strip() else []
    if is_squad(document):
        return _having(names, squad_records(document, file.name, answers=ANSWERS in names, skip=skip))
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise DataError(
            f"{file.name} is neither a list of JSON objects nor a file of SQuAD; with an object a line, call it .jsonl"
        )
    rows = ((number, f"{file.name}, item {number}", item) for number, item in enumerate(document, start=1))
    return (Record(chosen(item, names, where, others=True), where) for number, where, item in rows if number > skip)


def _sides(source: str | os.PathLike[str], names: tuple[str, ...]) -> dict[str, Path]:
    """The parallel files that `source` begins the names of, by their sides; none if it is something else."""
    if source == STANDARD_INPUT or Path(source).is_file() or any(os.sep in name for name in names):
        return {}
    found, absent = {}, []
    for name in names:
        paths = [Path(f"{os.fspath(source)}.{name}{packed}") for packed in ("", ".gz")]
        existing = next((path for path in paths if path.is_file()), None)
        if existing is None:
            absent.append(str(paths[0]))
        else:
            found[name] = existing
    if found and absent:
        raise DataError(f"{next(iter(found.values()))} has no {' nor '.join(absent)} beside it, which were asked for")
    return found


def _refuse_folder_of_sides(source: str | os.PathLike[str], names: tuple[str, ...]) -> None:
    """Raises DataError where `source` is the folder of parallel files and not the start that their names share."""
    folder = Path(source)
    if len(names) < 2 or source == STANDARD_INPUT or not folder.is_dir():
        return
    files = {path.name for path in folder.iterdir() if path.is_file()}
    bare = {name.removesuffix(".gz") for name in files}
    end = f".{names[0]}"
    starts = [name.removesuffix(end) for name in sorted(bare) if name.endswith(end)]
    starts = [start for start in starts if start and all(f"{start}.{name}" in bare for name in names)]
    if starts:
        raise DataError(
            f"{folder} is a folder; name what its parallel files begin with: "
            f"{' or '.join(str(folder / start) for start in starts[:3])}"
        )


def _parallel(files: dict[str, DataFile], encoding: str | None, skip: int) -> Iterator[Record]:
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(contextlib.closing(line_rows(file, file.codec(encoding), name)))
            for name, file in files.items()
        }
        about = next(iter(files.values())).name
        for number in itertools.count(1):
            rows = {name: next(side, None) for name, side in sides.items()}
            if None in rows.values():
                break
            if number > skip:
                yield Record({name: row[1][name] for name, row in rows.items() if row}, f"{about}, line {number}")
        counts = {name: number - (row is None) + sum(1 for _ in sides[name]) for name, row in rows.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{files[name].name} has {count} lines" for name, count in counts.items())
        raise DataError(f"parallel files must have as many lines each, but {told}")


def _even(lines: list[str], like: TableShape | None) -> bool:
    """Whether the lines look like rows of a table: at least two, all as wide as one another, and as those of `like`."""
    try:
        widths = {len(row) for row in csv.reader(line[:_LOOKED_AT] for line in lines)}
    except csv.Error:  # a quotation mark that nothing closes
        return False
    return len(lines) > 1 and len(widths) == 1 and (like is None or widths == {len(like.names)})


def _shown_format(
    file: DataFile, names: tuple[str, ...], header: bool | None, encoding: str | None, like: TableShape | None
) -> Format:
    """What the first lines of a file show whose ending does not tell."""
    with contextlib.closing(file.lines(file.codec(encoding))) as lines:
        begins = [line.strip("\r\n") for line in itertools.islice((line for line in lines if line.strip()), _FIRST)]
    first = begins[0][:_LOOKED_AT] if begins else ""
    if first.lstrip().startswith("{"):
        return "jsonl"
    if TAGS in names and set(names) <= {TOKENS, TAGS}:
        return "conll"
    if set(names) == {TOKENS} and has_tokens(file, file.codec(encoding)):
        return "conll"
    choice = Columns(names, header)
    for mark, kind in _MARKS:
        cells = first.split(mark)
        if mark == "," and len(names) == 1 and not choice.has_header and not _even(begins, like):
            continue  # commas of sentences
        if len(cells) > 1 and (header is not None or not choice.has_header or set(names) <= set(cells)) and names:
            return kind
    if len(names) == 1 and header is None:
        return "lines"
    raise DataError(
        f"{file.name}: neither its ending nor its first line tells how to read {', '.join(names) or 'it'}; "
        f"name the format: {', '.join(_FORMATS)}"
    )
