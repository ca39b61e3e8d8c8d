"""Files and folders to documents."""

from __future__ import annotations

import builtins
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from attentune.data.builtin import builtin_text
from attentune.data.encoding import DataWarning
from attentune.data.files import read_documents
from attentune.errors import DataError, MissingExtraError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def failure(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_documents(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_file_is_one_document_whatever_its_name(tmp_path: Path) -> None:
    assert read_documents(write(tmp_path / "a.py", "x = 1\r\n")) == ["x = 1\n"]
    assert read_documents(str(write(tmp_path / "noending", "x"))) == ["x"]
    assert read_documents(write(tmp_path / "b.txt", "süß".encode("utf-16")), encoding="utf-16") == ["süß"]


@pytest.mark.parametrize("name", ["train.en.gz", "a.txt.gz", "misnamed.txt"])
def test_gzip(tmp_path: Path, name: str) -> None:
    assert read_documents(write(tmp_path / name, gzip.compress("Bäume\r\n".encode()))) == ["Bäume\n"]


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b"some text that is long enough" * 20)
    assert "not a complete gzip file" in failure(write(tmp_path / "a.gz", whole[:-12]))
    assert "is not packed by gzip" in failure(write(tmp_path / "b.gz", b"plain text"))


def test_folder_is_sorted_recursive_and_reports_progress(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "z.txt", "first")
    write(tmp_path / "c.csv", "text,n\nthird,1\nfourth,2\n")
    write(tmp_path / ".hidden" / "x.txt", "never")
    write(tmp_path / ".hidden.txt", "never")
    seen: list[tuple[int, int]] = []
    documents = read_documents(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert documents == ["first", "second", "third", "fourth"]
    assert seen == [(5, 35), (11, 35), (35, 35)]


def test_folder_skips_what_is_no_text_and_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "b.png", b"\x89PNG\r\n\x1a\n")
    write(tmp_path / "sub" / "c.txt", "")
    with pytest.warns(DataWarning, match=r"b\.png, sub/c\.txt are empty or binary"):
        assert read_documents(tmp_path) == ["text"]


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "does not exist; did you mean 'input.txt'?" in failure(
        write(tmp_path / "input.txt", "x").with_name("inptu.txt")
    )
    assert "nor does its folder" in failure(tmp_path / "no" / "such.txt")
    assert "holds no text" in failure(write(tmp_path / "empty.txt", ""))
    assert "holds no text" in failure(write(tmp_path / "blank.txt", " \n\t\n"))
    assert "holds no text" in failure(write(tmp_path / "empty.csv", "text\n\n"))
    (tmp_path / "folder").mkdir()
    assert "holds no files" in failure(tmp_path / "folder")
    write(tmp_path / "folder" / "a.bin", b"\x00\x01")
    assert "holds no text: a.bin is empty or binary" in failure(tmp_path / "folder")
    assert "neither a file nor a folder" in failure(Path("/dev/null"))


def test_column_without_a_table(tmp_path: Path) -> None:
    assert "columns are for" in failure(write(tmp_path / "a.txt", "x"), column="text")
    assert "holds no table" in failure(tmp_path, column="text")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", "x")

    def refuse(self: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert failure(path) == f"cannot read {path}: Permission denied"


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "one\r\ntwo", "n": 1}, {"text": ["a", "b"]}, {"text": None}, {"text": ""}, {"text": "\u2028 line"}]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert read_documents(path) == ["one\ntwo", "a\nb", "\u2028 line"]
    write(tmp_path / "b.ndjson.gz", gzip.compress(b'{"body": "x"}\n'))
    assert read_documents(tmp_path / "b.ndjson.gz", column="body") == ["x"]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ('{"text": "a"}\n{"text": \n', None, "a.jsonl, line 2 is not JSON"),
        ('{"text": "a"}\n["b"]\n', None, "line 2 is not a JSON object but list"),
        ('{"body": "a"}\n', None, "line 1 has no column 'text'; known: body"),
        ('{"body": "a"}\n', "bodi", "no column 'bodi'; did you mean 'body'?"),
        ('{"text": 3}\n', None, "column 'text' holds the number 3, not text"),
        ('{"text": "\\ud83d"}\n', None, "half a surrogate pair"),
    ],
)
def test_json_lines_errors(tmp_path: Path, content: str, column: str | None, message: str) -> None:
    assert message in failure(write(tmp_path / "a.jsonl", content), column=column)


def test_separated_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\r\n"one, ""two""\r\nthree",x\r\n,y\r\nfour,z\r\n')
    assert read_documents(path) == ['one, "two"\nthree', "four"]
    assert read_documents(path, column="label") == ["x", "y", "z"]
    assert read_documents(write(tmp_path / "b.csv", "title;body\na;b\n"), column="body") == ["b"]
    assert read_documents(write(tmp_path / "c.csv", "anything\none\ntwo\n")) == ["one", "two"]
    assert read_documents(write(tmp_path / "d.tsv", 'label\ttext\n1\t"quoted" begin\n')) == ['"quoted" begin']
    assert read_documents(write(tmp_path / "e.tsv", 'label\ttext\n1\t"tab\there"\n')) == ["tab\there"]


def test_a_cell_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    assert read_documents(write(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")) == ["x" * 200_000]


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("text,label\na,b\nc\n", None, "a.csv, line 3 has 1 fields but the first line has 2"),
        ('text,label\n"a\nb",c\nd,e,f\n', None, "a.csv, line 4 has 3 fields"),
        ("question,label\na,b\n", None, "has no column 'text'; name the one to read: question, label"),
        ("question,label\na,b\n", "qestion", "did you mean 'question'? known: label, question"),
        ('text,label\n"a,b\n', None, "line 2: unexpected end of data"),
    ],
)
def test_separated_values_errors(tmp_path: Path, content: str, column: str | None, message: str) -> None:
    assert message in failure(write(tmp_path / "a.csv", content), column=column)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["Bäume", None, "", "b\r\nc"], "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read_documents(tmp_path / "a.parquet") == ["Bäume", "b\nc"]
    assert "row 1: column 'n' holds the number 1, not text" in failure(tmp_path / "a.parquet", column="n")
    assert "did you mean 'text'?" in failure(tmp_path / "a.parquet", column="txt")
    assert "not a readable Parquet file" in failure(write(tmp_path / "b.parquet", "no parquet"))
    parquet.write_table(pyarrow.table({"body": pyarrow.array(["x", "y"]).dictionary_encode()}), tmp_path / "c.pq")
    assert read_documents(tmp_path / "c.pq") == ["x", "y"]


def test_parquet_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *rest, **options)

    for name in [name for name in sys.modules if name.startswith("pyarrow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"a\.parquet needs pyarrow: pip install 'attentune\[parquet\]'"):
        read_documents(write(tmp_path / "a.parquet", "PAR1"))


def test_real_files(shared_data: Path) -> None:
    (shakespeare,) = read_documents(shared_data / "tinyshakespeare" / "input.txt")
    assert (len(shakespeare), len(set(shakespeare))) == (1_115_394, 65)
    assert len(read_documents(shared_data / "banking77" / "train.csv")) == 10_003
    assert len(read_documents(shared_data / "chnsenticorp" / "train.tsv", column="text_a")) == 9_600
    assert len(read_documents(shared_data / "scitldr" / "dev.jsonl", column="source")) == 619
    assert read_documents(shared_data / "multi30k" / "val.de.gz")[0].count("\n") == 1_014


def test_builtin_text_is_plain_and_always_the_same() -> None:
    text = builtin_text()
    assert text == builtin_text()
    assert 300_000 < len(text) < 900_000
    assert text.startswith('The "assert" statement\n***')
    assert "\r" not in text
    assert text.isprintable() is False
    assert set(text) - {"\n"} == {character for character in text if character.isprintable()}
