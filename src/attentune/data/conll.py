"""Sentences with tags, one token a line: the files of the CoNLL shared tasks and of those who followed them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import warnings
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field

from attentune.data.encoding import DataWarning
from attentune.data.record import Record
from attentune.data.streams import DataFile
from attentune.data.tagging import SCHEMES, Scheme, as_iob2, likeliest_scheme, parted
from attentune.errors import DataError, near

TOKENS, TAGS = "tokens", "tags"
"""The columns that a record has; of a file without tags the first alone."""

_SPACE = " \t\r\n\ufeff"  # not those that may be tokens, such as the ideographic space
_DOCUMENT = "-DOCSTART-"
_SHOWN = 5  # lines in a warning
_FIRST = 1000  # lines that show whether each is a token
_LONGEST = 1 << 16  # characters of such a line
_CLAUSES = re.compile(r"\w[。！？；，]|[。！？；，]\w")  # what is no token, although no space stands in it
_GUESSED: tuple[Scheme, ...] = ("iob2", "iob1", "bioes")  # the first of those that are broken least

Sentence = list[tuple[int, str, str]]
"""Line, token and tag of each of its words."""


@dataclass
class _Survey:
    """What the whole file says about how it is to be read."""

    entities: bool = False  # some tag is of the form B-kind
    ends: bool = False  # entities have marks of their ends
    odd: tuple[int, str] | None = None  # the first tag of another form
    count: Counter[Scheme] = field(default_factory=Counter)  # tags that break the rules
    lines: dict[Scheme, list[int]] = field(default_factory=lambda: {scheme: [] for scheme in SCHEMES})

    def add(self, sentence: Sentence) -> None:
        tags = [tag for _, _, tag in sentence]
        for line, _, tag in sentence:
            parts = parted(tag)
            if parts is None:
                self.odd = self.odd or (line, tag)
            else:
                self.entities |= parts[0] != "O"
                self.ends |= parts[0] in ("E", "S")
        for scheme in _GUESSED:
            _, broken = as_iob2(tags, scheme)
            self.count[scheme] += len(broken)
            if len(self.lines[scheme]) < _SHOWN:
                self.lines[scheme] += [sentence[place][0] for place in broken]

    @property
    def scheme(self) -> Scheme:
        if self.odd is not None and not self.entities:
            return "plain"
        return likeliest_scheme(self.count, ends=self.ends)


def read_conll(
    source: str | os.PathLike[str],
    *,
    tokens: int = 1,
    tags: int | None = -1,
    scheme: Scheme | None = None,
    strict: bool = False,
    encoding: str | None = None,
) -> list[Record]:
    """The sentences of `source`, each with its `tokens` and its `tags` in IOB2.

    Columns are cut by tabs, or by spaces where the first line has no tab; blank lines (a byte order mark that strayed
    into one included) end sentences; `-DOCSTART-` lines are left out. The scheme is found: BIOES, BMES or BILOU by the
    marks of ends, else IOB2 or IOB1, whichever is broken less. Where no tag is of the form `B-kind`, as in parts of
    speech, all stay as they are.

    Args:
        source: a file, which may be gzip-compressed, or `-`.
        tokens: the column of the tokens, from 1.
        tags: that of the tags, from 1, or from -1 backwards; None: there are none. A file of one column has none.
        scheme: how the tags are written, or None to find it.
        strict: whether tags that break the rules are an error; else they are repaired, and a `DataWarning` counts them.
        encoding: a codec name of Python, or None to detect it.

    Raises:
        DataError: no such file or column, a line with more or fewer columns than the first, an empty token, a tag that
            the scheme does not have, no sentence at all.
    """
    file = DataFile(source)
    found = conll_records(file, file.codec(encoding), tokens=tokens, tags=tags, scheme=scheme, strict=strict)
    records = list(found)
    if not records:
        raise DataError(f"{file.name} holds no sentences")
    return records


def conll_records(
    file: DataFile,
    codec: str,
    *,
    tokens: int = 1,
    tags: int | None = -1,
    scheme: Scheme | None = None,
    strict: bool = False,
    raw: bool = False,
    skip: int = 0,
) -> Generator[Record, None, None]:
    """As `read_conll`, one sentence at a time, after the first `skip`. The file is read twice, `raw` once.

    With `raw` the tags, which nobody asked for, stay as they stand, whatever they are.
    """
    if scheme is not None and scheme not in SCHEMES:
        raise DataError(f"no scheme of tags is called {scheme!r}; {near(scheme, SCHEMES)}")
    survey = _Survey()
    width = _width(file, codec)
    tags = None if width == 1 and tags == -1 else tags
    if tags is not None and not raw:
        for sentence in _sentences(file, codec, tokens, tags):
            survey.add(sentence)
    chosen = survey.scheme if scheme is None else scheme
    _report(file.name, survey, chosen, strict=strict)
    for number, sentence in enumerate(_sentences(file, codec, tokens, tags, raw=raw)):
        if number < skip:
            continue
        values = {TOKENS: [token for _, token, _ in sentence]}
        if tags is not None:
            found = [tag for _, _, tag in sentence]
            values[TAGS] = found if raw else as_iob2(found, chosen)[0]
        yield Record(values, f"{file.name}, line {sentence[0][0]}")


def has_tokens(file: DataFile, codec: str) -> bool:
    """Whether each of the first lines is a token, with its tags or without, and not a text.

    Raises:
        DataError: that cannot be told.
    """
    with contextlib.closing(file.lines(codec)) as lines:
        begins = [line[:_LONGEST].strip(_SPACE) for line in itertools.islice(lines, _FIRST)]
    held = [line for line in begins if line]
    if held and (held[0].startswith(_DOCUMENT) or all("\t" in line for line in held)):
        return True
    rows = [re.split("[ \t]+", line) for line in held]
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return False
    if len(rows[0]) == 1:
        last = max(number for number, line in enumerate(begins) if line)
        if "" in begins[:last] and not any(_CLAUSES.search(line) for line in held):
            return True
    elif all(parted(row[-1]) for row in rows) and any(row[-1] == "O" for row in rows):
        return True
    raise DataError(
        f"{file.name}: neither its ending nor its lines tell whether each is a token or a text; name the format "
        "(of predict: --input-format): conll or lines"
    )


def _report(name: str, survey: _Survey, scheme: Scheme, *, strict: bool) -> None:
    if scheme != "plain" and survey.odd is not None:
        line, tag = survey.odd
        raise DataError(
            f"{name}, line {line}: tag {tag!r} is neither O nor, as others are, B-, I-, E- or S- with a kind"
        )
    count, lines = survey.count[scheme], survey.lines[scheme][:_SHOWN]
    if not count:
        return
    shown = f"line{'s' if count > 1 else ''} {', '.join(map(str, lines))}{' and more' if count > _SHOWN else ''}"
    if strict:
        raise DataError(f"{name}, {shown}: {count} tags break the rules of {scheme.upper()}; repair them")
    warnings.warn(
        f"{name}: {count} tag{'s break' if count > 1 else ' breaks'} the rules of {scheme.upper()}, and an entity that "
        f"goes on with nothing is taken to begin there: {shown}",
        DataWarning,
        stacklevel=3,
    )


def _width(file: DataFile, codec: str) -> int:
    with contextlib.closing(_lines(file, codec)) as lines:
        return next((len(cells) for _, cells in lines if cells), 0)


def _sentences(
    file: DataFile, codec: str, tokens: int, tags: int | None, *, raw: bool = False
) -> Generator[Sentence, None, None]:
    sentence: Sentence = []
    for number, cells in _lines(file, codec):
        if not cells:
            if sentence:
                yield sentence
            sentence = []
            continue
        where = f"{file.name}, line {number}"
        token = _cell(cells, tokens, where, "tokens")
        tag = "" if tags is None else _cell(cells, tags, where, "tags", empty=raw)
        sentence.append((number, token, tag))
    if sentence:
        yield sentence


def _cell(cells: list[str], column: int, where: str, what: str, *, empty: bool = False) -> str:
    if column == 0 or not -len(cells) <= column <= len(cells):
        raise DataError(
            f"{where} has {len(cells)} columns and so no column {column} of {what}; they count from 1 or -1"
        )
    value = cells[column - 1 if column > 0 else column]
    if not value and not empty:
        raise DataError(f"{where}: the column of {what} is empty; repair the line")
    return value


def _lines(file: DataFile, codec: str) -> Generator[tuple[int, list[str]], None, None]:
    """The columns of each line; none where a sentence ends."""
    tabs: bool | None = None
    width = 0
    for number, line in enumerate(file.lines(codec), start=1):
        stripped = line.strip(_SPACE)
        if not stripped or stripped.startswith(_DOCUMENT):
            yield number, []
            continue
        tabs = "\t" in line if tabs is None else tabs
        if tabs:
            cells = [cell.strip(" \ufeff") for cell in line.rstrip("\n").split("\t")]
        else:
            cells = [cell for cell in stripped.replace("\t", " ").split(" ") if cell]
        width = width or len(cells)
        if len(cells) != width:
            raise DataError(
                f"{file.name}, line {number} has {len(cells)} columns, cut by {'tabs' if tabs else 'spaces'}, but the "
                f"first has {width}; repair the line"
            )
        yield number, cells
