"""Files to records: every format, and every oddity that users bring."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import os
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Sequence
from decimal import Decimal
from math import nan
from pathlib import Path
from typing import Any

import pytest

from attentune.data.encoding import DataWarning
from attentune.data.record import Record
from attentune.data.records import files_of, iterate_records, read_records
from attentune.data.shape import TableShape
from attentune.errors import DataError
from shape_checks import unchecked


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path | str, columns: Sequence[str | int] = (), **options: Any) -> list[dict[str, Any]]:
    return [dict(record.values) for record in read_records(path, columns, **options)]


def failure(path: Path | str, columns: Sequence[str | int] = (), **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        unchecked(read_records)(path, columns, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv_with_a_header_keeps_all_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffid,text,label\r\n1,"one, ""two""\r\nthree",x\r\n\r\n2,,y\r\n')
    first, second = read_records(path, ("text", "label"))
    assert first.values == {"id": "1", "text": 'one, "two"\nthree', "label": "x"}
    assert second.values == {"id": "2", "text": "", "label": "y"}
    assert (first.where, second.where) == (f"{path}, line 2", f"{path}, line 5")


def test_columns_by_number_mean_that_there_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "good film\t1\nbad\t0\n")
    expected = [{"1": "good film", "2": "1"}, {"1": "bad", "2": "0"}]
    assert values(path, (1, 2)) == values(path, ("1",)) == values(path, header=False) == expected
    # The first cell of a file of ratings is the name of another column: still no header.
    assert values(write(tmp_path / "b.tsv", "2\tfine\n1\tpoor\n"), ("2",))[0] == {"1": "2", "2": "fine"}


def test_the_folder_of_parallel_files_says_what_is_meant(tmp_path: Path) -> None:
    for side in ("de", "en.gz"):
        write(tmp_path / f"train.{side}", b"x")
    assert f"name what its parallel files begin with: {tmp_path / 'train'}" in failure(tmp_path, ("de", "en"))
    assert "name the file in it that is meant" in failure(tmp_path, ("de", "fr"))


def test_a_header_that_is_named_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "0,1,,0\na,b,c,d\n")
    assert values(path, ("1",), header=True) == [{"0": "a", "1": "b", "3": "c", "4": "d"}]
    assert values(write(tmp_path / "b.csv", "text,label\na,b\n"), (2,), header=True)[0]["2"] == "b"
    assert values(write(tmp_path / "c.csv", "text,label\na,b\n"), ("text", 2))[0] == {
        "text": "a",
        "label": "b",
        "2": "b",
    }


@pytest.mark.parametrize(
    ("content", "columns", "options", "message"),
    [
        ("text,label\na,b\n", ("txt",), {}, "no column 'txt'; did you mean 'text'? known: label, text"),
        (
            "good,1\nbad,0\n",
            ("text",),
            {},
            "1, good. If that line is no header, name the columns by their numbers",
        ),
        (f"{'x' * 99},1\n", ("text",), {}, f"known: 1, {'x' * 40}.... If"),
        ("an odd text,x\na,b\n", (3,), {}, "has 2 columns and so no column 3; numbers begin at 1"),
        ("text,label\na,b\n", ("text",), {"header": False}, "name column 'text' by its number, 1 to 2"),
        ("text,text\na,b\n", ("text",), {}, "names column 'text' twice; rename one of them"),
        ("text,label\na,b\nc\n", ("text",), {}, "a.csv, line 3 has 1 fields but the first line has 2"),
        ('text,label\n"a\nb",c\n"d\ne",f,g\n', ("text",), {}, "a.csv, line 4 has 3 fields"),
        (
            'text,label\na,b\n"c\nd,e\n',
            ("text",),
            {},
            "unexpected end of data, in the row that begins at line 3",
        ),
        ("", ("text",), {}, "holds no records"),
        ("text,label\n", ("text",), {}, "holds no records"),
        ("text\n", (" ",), {}, "the name of a column is empty"),
    ],
)
def test_separated_values_errors(
    tmp_path: Path, content: str, columns: tuple[str | int, ...], options: dict[str, Any], message: str
) -> None:
    assert message in failure(write(tmp_path / "a.csv", content), columns, **options)


def test_the_separator_is_the_one_that_cuts_all_rows_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Hallo, Welt;1\nJa, nein, doch;0\n")
    assert values(path, (1, 2)) == [{"1": "Hallo, Welt", "2": "1"}, {"1": "Ja, nein, doch", "2": "0"}]
    assert values(write(tmp_path / "b.csv", "text\tlabel\na, b\tc\n"), ("text",))[0]["label"] == "c"


def test_quotes_of_tsv_mean_nothing_unless_they_must(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.tsv", 'a "b\tc\n"d\te\n'), (1,))[0]["1"] == 'a "b'
    assert values(write(tmp_path / "b.tsv", 'a\tb\n"c\nd"\te\n'), (1,))[1] == {"1": "c\nd", "2": "e"}
    assert "line 2 has 3 fields" in failure(write(tmp_path / "c.tsv", 'a\tb\n"c\td\te\n'), (1,))


def test_a_very_long_field(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write(tmp_path / "a.csv", f"text,label\n{'x' * 3_000_000},b\n")
    assert len(values(path, ("text",))[0]["text"]) == 3_000_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "misnamed.jsonl"])
def test_json_lines_keep_what_they_hold(tmp_path: Path, name: str) -> None:
    rows = [
        {"source": ["a", "b"], "target": None, "n": 1, "more": {"x": [1.5]}},
        {"source": "\u2028c\r\n", "target": ""},
    ]
    data = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    path = write(tmp_path / name, data if name == "a.jsonl" else gzip.compress(data))
    assert values(path, ("source", "target")) == rows
    assert read_records(path)[1].where == f"{path}, line 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "a.jsonl, line 2 is not JSON: Expecting value at character 9"),
        ('{"text": "a"}\n\n["b"]\n', "line 3 is not a JSON object but list"),
        ('{"text": "a"}\n{"txt": "b"}\n', "line 2 has no column 'text'; did you mean 'txt'?"),
        ('{"text": "a", "more": {"\\ud83d": 1}}\n', "line 1 holds half a surrogate pair"),
        ('{"text": ' + "9" * 5000 + "}\n", "line 1 is not JSON: Exceeds the limit"),
        ('{"text": ' + "[" * 100_000 + "}\n", "line 1 is not JSON"),
        (" \n", "holds no records"),
    ],
)
def test_json_lines_errors(tmp_path: Path, content: str, message: str) -> None:
    assert message in failure(write(tmp_path / "a.jsonl", content), ("text",))


def test_a_whole_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude00"}\n'), ("text",)) == [{"text": "😀"}]


def test_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"text": "a\\r"},\n {"text": 2}]')
    assert values(path, ("text",)) == [{"text": "a\r"}, {"text": 2}]
    assert read_records(path)[1].where == f"{path}, item 2"
    assert list(iterate_records(path, skip=1)) == read_records(path)[1:]
    assert "item 1 has no column 'txt'" in failure(path, ("txt",))
    assert "call it .jsonl" in failure(write(tmp_path / "b.json", '{"text": "a"}'))
    assert "holds no records" in failure(write(tmp_path / "c.json", ""))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    day = datetime.date(2020, 1, 2)
    table = pyarrow.table(
        {"text": ["a\r\n", None, "c"], "tags": [["x"], [], None], "n": [1, 2, 3], "day": [day] * 3, "raw": [b"x"] * 3}
    )
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=2)
    rows = values(path, ("text",))
    assert rows[0] == {"text": "a\r\n", "tags": ["x"], "n": 1, "day": "2020-01-02"}
    assert [row["text"] for row in rows] == ["a\r\n", None, "c"]
    for skip in range(5):
        assert [record["n"] for record in iterate_records(path, ("n",), skip=skip)] == [1, 2, 3][skip:]
    assert read_records(path)[2].where == f"{path}, row 3"
    assert "column 'raw' holds binary, which is no text" in failure(path, ("raw",))
    assert failure(path, ("txt",)).endswith("did you mean 'text'? known: day, n, raw, tags, text")
    assert [row["3"] for row in values(path, (3,))] == [1, 2, 3]
    assert "no encoding to name" in failure(path, encoding="utf-8")
    inner = {"meta": [{"when": day, "cost": Decimal("1.5"), "n": [1, None]}] * 3, "image": [{"raw": b"x"}] * 3}
    parquet.write_table(table.append_column("meta", [inner["meta"]]).append_column("image", [inner["image"]]), path)
    assert values(path, ("text",))[0] == rows[0] | {"meta": {"when": "2020-01-02", "cost": "1.5", "n": [1, None]}}
    assert "column 'image' holds struct<raw: binary>, which is no text" in failure(path, ("image",))
    parquet.write_table(table, path, row_group_size=2)
    assert values(write(tmp_path / "b.parquet.gz", gzip.compress(path.read_bytes())), ("n",)) == rows
    parquet.write_table(table.slice(0, 0), tmp_path / "c.parquet")
    assert "holds no records" in failure(tmp_path / "c.parquet", ("text",))


def test_parallel_lines(tmp_path: Path) -> None:
    write(tmp_path / "train.de", "Ein\u2028Satz\r\n\nmit \r darin\n")
    write(tmp_path / "train.en.gz", gzip.compress(b"one sentence\n\nlast without end"))
    records = read_records(tmp_path / "train", ("de", "en"))
    assert [dict(record.values) for record in records] == [
        {"de": "Ein\u2028Satz", "en": "one sentence"},
        {"de": "", "en": ""},
        {"de": "mit \r darin", "en": "last without end"},
    ]
    assert records[2].where == f"{tmp_path / 'train.de'}, line 3"
    assert list(iterate_records(tmp_path / "train", ("de", "en"), skip=2)) == records[2:]
    assert values(tmp_path / "train", ("de",))[0] == {"de": "Ein\u2028Satz"}
    assert values(tmp_path / "train.de", ("source",))[1] == {"source": ""}
    (tmp_path / "train").mkdir()
    assert read_records(tmp_path / "train", ("de", "en")) == records


def test_the_files_that_are_read(tmp_path: Path) -> None:
    one, two = write(tmp_path / "p.de", "a\n"), write(tmp_path / "p.en.gz", gzip.compress(b"b\n"))
    assert files_of(tmp_path / "p", ("de", "en")) == [one, two]
    assert files_of(tmp_path / "p", ("en",)) == files_of(str(two), ("en",)) == [two]
    assert files_of(tmp_path / "p", ("de",), format="csv") == [tmp_path / "p"]
    assert files_of("-", ("de",)) == []
    assert files_of(tmp_path / "q", ("de",)) == [tmp_path / "q"]  # reading it says that it is not there


@pytest.mark.parametrize("skip", [0, 2, 9])
def test_parallel_lines_must_be_as_many(tmp_path: Path, skip: int) -> None:
    write(tmp_path / "t.de", "1\n2\n3\n4\n5\n")
    write(tmp_path / "t.en", "1\n2\n3\n")
    with pytest.raises(DataError, match=r"t\.de has 5 lines, .*t\.en has 3 lines"):
        list(iterate_records(tmp_path / "t", ("de", "en"), skip=skip))
    write(tmp_path / "t.en", "1\n2\n3\n4\n5\n6\n7\n")
    with pytest.raises(DataError, match=r"t\.de has 5 lines, .*t\.en has 7 lines"):
        list(iterate_records(tmp_path / "t", ("de", "en"), skip=skip))


def test_one_side_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "t.de", "1\n")
    assert f"t.de has no {tmp_path / 't.en'} beside it" in failure(tmp_path / "t", ("de", "en"))
    assert "does not exist; did you mean 't.de'?" in failure(tmp_path / "t.d", ("x", "y"))


def test_a_folder_is_not_guessed_at(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text\na\n")
    assert failure(tmp_path, ("text",)) == f"{tmp_path} is a folder; name the file in it that is meant"


def test_files_of_other_names(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.txt", "Hi.\t嗨。\tby\n"), (1, 2)) == [{"1": "Hi.", "2": "嗨。", "3": "by"}]
    assert values(write(tmp_path / "b.txt", "text\tlabel\na\tb\n"), ("label",)) == [{"text": "a", "label": "b"}]
    assert values(write(tmp_path / "c.txt", "text,label\na,b\n"), ("label", "text"))[0]["label"] == "b"
    assert values(write(tmp_path / "d.txt", '\n{"text": "a"}\n'), ("text",)) == [{"text": "a"}]
    assert values(write(tmp_path / "e", "One, two\n\nthree\n"), ("text",)) == [
        {"text": "One, two"},
        {"text": ""},
        {"text": "three"},
    ]
    assert values(write(tmp_path / "f.annotated", "a\tO\n\nb\tO\n"), ("tokens",))[1]["tokens"] == ["b"]
    prose = "Slow, loud, and bad.\nWarm, and well made.\nFine\n"
    assert [one["1"] for one in values(write(tmp_path / "h.txt", prose), (1,))] == prose.splitlines()
    assert values(write(tmp_path / "i.txt", "Warm, and well made.\n"), (1,)) == [{"1": "Warm, and well made."}]
    table = write(tmp_path / "j.txt", '"Warm, and well made.",1\nbad,0\n')
    assert [one["1"] for one in values(table, (1,))] == ["Warm, and well made.", "bad"]
    like = TableShape(("1", "2", "3"))
    assert [one["1"] for one in iterate_records(table, ("1",), like=like)] == table.read_text().splitlines()
    message = failure(write(tmp_path / "g.txt", "no table at all\n"), ("text", "label"))
    assert "neither its ending nor its first line tells how to read text, label; name the format: csv, tsv" in message
    assert values(tmp_path / "a.txt", ("line",), format="lines") == [{"line": "Hi.\t嗨。\tby"}]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("Angela Merkel visited Paris yesterday .\n", ["Angela Merkel visited Paris yesterday ."]),
        ("We met Mr Bell .\n\nHe left .\n", ["We met Mr Bell .", "", "He left ."]),
        ("我 爱 北京 。\n他 来 了\n", ["我 爱 北京 。", "他 来 了"]),
        ("Hello\n", ["Hello"]),
        ("Bell O\nParis B-city\n", [["Bell", "Paris"]]),
        ("Bell NNP O\n\nParis NNP B-city\n", [["Bell"], ["Paris"]]),
        ("Bell\tNNP\n\nParis\tNNP\n", [["Bell"], ["Paris"]]),
        ("-DOCSTART- -X-\n\nBell NNP\n", [["Bell"]]),
        ("我\n爱\n\n他\n！！\n", [["我", "爱"], ["他", "！！"]]),
    ],
)
def test_lines_are_tokens_only_where_they_look_like_it(tmp_path: Path, content: str, tokens: list[Any]) -> None:
    assert [one["tokens"] for one in values(write(tmp_path / "a.txt", content), ("tokens",))] == tokens


@pytest.mark.parametrize("content", ["我爱北京。\n他来了。\n", "我爱北京。\n\n他来了，又走了。\n", "I go\nyou stay\n"])
def test_lines_that_may_be_tokens_or_texts_are_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.txt", content)
    message = failure(path, ("tokens",))
    assert message.startswith(f"{path}: neither its ending nor its lines tell whether each is a token or a text")
    assert message.endswith("name the format (of predict: --input-format): conll or lines")
    lines = content.split("\n")[:-1]
    assert [one["tokens"] for one in values(path, ("tokens",), format="lines")] == lines


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (("text",), {"format": "xlsx"}, "no format is called 'xlsx'; known: conll, csv"),
        (("text",), {"format": "jsonl", "header": True}, "header is for CSV and TSV, and this is read as jsonl"),
        (("a", "b"), {"format": "lines"}, "read as lines, which have one column; got 2: a, b"),
        (("a",), {"encoding": "utf-8x"}, "encoding 'utf-8x' is unknown"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, columns: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    assert message in failure(write(tmp_path / "a.txt", "x\n"), columns, **options)


def test_skip_must_not_be_negative(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="skip must be at least 0, got -1"):
        iterate_records(write(tmp_path / "a.csv", "a\nb\n"), skip=-1)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv", "a.txt"])
def test_encodings(tmp_path: Path, name: str) -> None:
    contents = {"a.csv": "text,n\nBäume,1\n", "a.jsonl": '{"text": "Bäume"}\n', "a.tsv": "text\tn\nBäume\t1\n"}
    content = contents.get(name, "Bäume\n")
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert values(write(tmp_path / name, content.encode(encoding)), ("text",))[0]["text"] == "Bäume"
    latin = write(tmp_path / name, content.encode("latin-1"))
    assert values(latin, ("text",), encoding="latin-1")[0]["text"] == "Bäume"
    with pytest.warns(DataWarning, match="a guess: name its encoding"):
        assert values(latin, ("text",))[0]["text"] == "Bäume"
    offset = content.encode("latin-1").index(b"\xe4")
    assert failure(latin, ("text",), encoding="utf-8") == (
        f"{latin} is not valid utf-8: byte 0xe4 at offset {offset}; name its real encoding, or none to have it detected"
    )


def test_an_invalid_byte_far_into_a_file_is_found(tmp_path: Path) -> None:
    content = "ä".encode() * 1_500_000 + b"\n\xff\n"  # characters lie across the blocks that are decoded
    path = write(tmp_path / "a.txt", content)
    assert "byte 0xff at offset 3000001" in failure(path, ("text",), encoding="utf-8")
    with pytest.warns(DataWarning, match="not UTF-8 \\(offset 3000001\\)"):
        assert len(values(path, ("text",), format="lines")) == 2


def test_what_is_no_text(tmp_path: Path) -> None:
    assert "holds zero bytes" in failure(write(tmp_path / "a.csv", b"a\0\0\0b,\0\0c\n"), ("a",))
    assert "a ZIP archive or an office document" in failure(write(tmp_path / "b.csv", b"PK\x03\x04..."), ("a",))
    whole = gzip.compress(b"text,label\n" + b"a,b\n" * 5000)
    assert "c.csv.gz is not a complete gzip file" in failure(write(tmp_path / "c.csv.gz", whole[:-12]), ("text",))
    assert "is not packed by gzip" in failure(write(tmp_path / "d.csv.gz", b"text,label\na,b\n"), ("text",))


def test_values_as_what_a_task_wants() -> None:
    record = Record(
        {"a": " x", "b": None, "c": 3, "d": ["p", "q"], "e": [1], "f": True, "g": 2.0, "h": "", "i": 0.5, "j": nan},
        "f, line 7",
    )
    assert (record.text("a"), record.text("d"), record.text("h")) == (" x", "p q", "")
    assert (record.texts("a"), record.texts("d")) == ((" x",), ("p", "q"))
    assert [record.label(column) for column in "acfgi"] == [" x", "3", "true", "2", "0.5"]
    for method, column, message in [
        (record.text, "b", "f, line 7: column 'b' holds null, not text"),
        (record.text, "c", "f, line 7: column 'c' holds the number 3, not text"),
        (record.texts, "e", "f, line 7: the list in column 'e' holds the number 1, not text"),
        (record.label, "b", "f, line 7: column 'b' holds null, not a label"),
        (record.label, "h", "f, line 7: column 'h' holds an empty text, not a label"),
        (record.label, "d", "f, line 7: column 'd' holds a list, not a label"),
        (record.label, "j", "f, line 7: column 'j' holds the number NaN, not a label"),
        (record.text, "aa", "f, line 7 has no column 'aa'; did you mean 'a'? known: a, b, c, d, e, f, g, h, i, j"),
    ]:
        with pytest.raises(DataError) as caught:
            method(column)
        assert str(caught.value) == message


def test_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(gzip.compress(b"text\tlabel\na\tb\n"))

    monkeypatch.setattr(sys, "stdin", Stdin)
    (record,) = read_records("-", ("text", "label"), format="tsv")
    assert record == Record({"text": "a", "label": "b"}, "the standard input, line 2")


def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: write(tmp_path / "pipe", "text,label\na,b\n"))
    writer.start()
    assert values(tmp_path / "pipe", ("text",), format="csv") == [{"text": "a", "label": "b"}]
    writer.join()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.tsv", "a.txt"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    rows = 100_000 if name == "a.csv" else 20_000
    kind = name.removesuffix(".gz").rpartition(".")[2]
    row = {
        "csv": '"a line\nbroken, in two {}",b\n',
        "jsonl": '{{"text": "a line\\nbroken, in two {}"}}\n',
        "tsv": "a line {}\tb\n",
        "txt": "a line {}\n",
    }[kind]
    begin = {"csv": "text,label\n", "tsv": "text\tlabel\n"}.get(kind, "")
    data = (begin + "".join(row.format(number) for number in range(rows))).encode()
    path = write(tmp_path / name, gzip.compress(data, 1) if name.endswith(".gz") else data)
    del data
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        records = iterate_records(path, ("text",), progress=lambda *at: seen.append(at))
        count = unchecked(sum)(1 for _ in records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == rows
    assert peak < 6_000_000  # a few blocks of a mebibyte, with which the encoding is found
    size = path.stat().st_size
    assert len(seen) == rows // 1000 + 1 and seen[-1] == (size, size)
    assert seen == sorted(seen) and 0.3 * size < seen[len(seen) // 2][0] < 0.9 * size
    last = list(iterate_records(path, ("text",), skip=rows - 1))
    assert len(last) == 1 and str(rows - 1) in last[0]["text"]
    assert list(iterate_records(path, ("text",), skip=rows)) == []


def test_a_reader_that_stops_early_closes_the_file(tmp_path: Path) -> None:
    write(tmp_path / "t.de", "1\n2\n")
    write(tmp_path / "t.en", "1\n2\n")
    write(tmp_path / "a.csv", "text,label\n" + "a,b\n" * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source, columns in ((tmp_path / "t", ("de", "en")), (tmp_path / "a.csv", ("text", "label"))):
            records = iterate_records(source, columns)
            assert next(records)[columns[0]] in ("1", "a")
            del records
            assert not [link for link in Path("/proc/self/fd").glob("*") if str(tmp_path) in os.path.realpath(link)]


REAL: dict[str, tuple[tuple[str | int, ...], int]] = {
    "multi30k/train": (("de", "en"), 29_000),
    "multi30k/val": (("de", "en"), 1_014),
    "multi30k/test_2016_flickr": (("de", "en"), 1_000),
    "tatoeba_zh_en/cmn.txt": ((1, 2), 29_155),
    "banking77/train.csv": (("text", "category"), 10_003),
    "banking77/test.csv": (("text", "category"), 3_080),
    "stockemotions/train_stockemo.csv": (("processed", "emo_label", "senti_label"), 8_000),
    "stockemotions/val_stockemo.csv": (("processed",), 1_000),
    "stockemotions/test_stockemo.csv": (("processed",), 1_000),
    "sst2/train.tsv": ((1, 2), 6_920),
    "sst2/dev.tsv": ((1, 2), 872),
    "sst2/test.tsv": ((1, 2), 1_821),
    "chnsenticorp/train.tsv": (("label", "text_a"), 9_600),
    "chnsenticorp/dev.tsv": (("label", "text_a"), 1_200),
    "chnsenticorp/test.tsv": (("label", "text_a"), 1_200),
    "squad/squad-v1.1-48-articles.json": (("context", "question", "answers"), 10_570),
    "scitldr/train.jsonl": (("source", "target"), 1_992),
    "scitldr/dev.jsonl": (("source", "target"), 619),
    "scitldr/test.jsonl": (("source", "target"), 618),
    "covid_faq/faq_covidbert.csv": (("question", "answer"), 213),
    "covid_faq/eval_question_similarity_en.csv": (("question_1", "question_2", "similar"), 488),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(shared_data: Path, name: str) -> None:
    columns, count = REAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = read_records(shared_data / name, columns)
    assert len(records) == count
    for column in map(str, columns):
        assert all(record[column] for record in records)
    if name == "banking77/train.csv":
        assert len({record.label("category") for record in records}) == 77
    if name.startswith(("sst2", "chnsenticorp")):
        assert {record.label("2" if name.startswith("sst2") else "label") for record in records} == {"0", "1"}
    if name.startswith("scitldr"):
        assert all(len(record.texts("source")) > 1 or record.texts("source")[0] for record in records)
