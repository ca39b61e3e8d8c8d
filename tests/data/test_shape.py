"""Columns by number: what a model keeps of its table, which tables are refused, and which first lines are headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from attentune.data.records import iterate_records, read_records
from attentune.data.shape import TableShape, is_header
from attentune.errors import DataError, SpecError, StorageError
from attentune.spec.run import DataSpec
from attentune.tasks.answers import AnswerFile
from attentune.tasks.reading import read
from attentune.tasks.registry import read_task

PLAIN = TableShape(("1", "2"))


def table(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "columns", "header", "names"),
    [
        ("a film,1\nb film,0\n", ("1", "2"), None, ("1", "2")),
        ("id,text\n7,a film\n", ("2",), True, ("id", "text")),
        ("1,2\n7,a film\n", ("2",), True, ("1", "2")),  # names that are numbers, where they stand
        ("2,1\n7,a film\n", ("2",), True, ("2", "1")),  # and elsewhere
        (",text\n7,a film\n", ("1", "2"), True, ("1", "text")),  # a column without a name goes by its number anyway
        ("id,text\n7,a film\n", ("text",), None, None),
    ],
)
def test_the_shape_of_a_table(
    tmp_path: Path, text: str, columns: tuple[str, ...], header: bool | None, names: tuple[str, ...] | None
) -> None:
    record = read_records(table(tmp_path, text), columns, header=header)[0]
    shape = TableShape.of(record, columns)
    assert (None if shape is None else shape.names) == names
    if shape is not None:
        assert TableShape.read(shape.kept()) == shape
        assert shape.has_header == (names is not None and names != ("1", "2"))
    assert TableShape.read({}) is None


@pytest.mark.parametrize(
    ("like", "text", "columns", "says"),
    [
        (PLAIN, "7,a b c,x\n", ("1",), "has 3 columns (7, a b c, x), and the model was trained on files of 2"),
        (TableShape(("1", "2", "3")), "a b c,x y z\n", ("2",), "of 3, of which it reads 2"),
        (TableShape(("id", "text")), "text,id\na b,7\n", ("2",), "column 2 of"),
    ],
)
def test_a_table_of_another_shape_is_refused(
    tmp_path: Path, like: TableShape, text: str, columns: tuple[str, ...], says: str
) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DataError) as caught:
        list(iterate_records(path, columns, like=like))
    assert says in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("like", "text", "columns", "value"),
    [
        (PLAIN, "a b c,1\n", ("1",), "a b c"),
        (PLAIN, "a b c\n", ("1",), "a b c"),  # the answers are what is asked for
        (TableShape(("id", "text")), "id,text\n7,a b\n", ("2",), "a b"),  # the header that there was is there
        (TableShape(("id", "text", "x")), "id,text\n7,a b\n", ("2",), "a b"),
    ],
)
def test_a_table_of_the_same_shape_is_read(
    tmp_path: Path, like: TableShape, text: str, columns: tuple[str, ...], value: str
) -> None:
    (record,) = iterate_records(table(tmp_path, text), columns, like=like)
    assert record[columns[0]] == value


@pytest.mark.parametrize(
    ("first", "rows", "expected"),
    [
        (["text", "label"], [["a film", "good"]], True),  # usual names
        (["content", "stars"], [["a film", "5"], ["another", "4"]], True),  # a word above numbers
        (["content", "verdict"], [["a film", "good"], ["b film", "bad"]] * 5, True),  # above values that come again
        (["content", "verdict"], [["a film", "good"]], False),  # one row shows nothing
        (["a dull film", "bad"], [[f"film {number}", "good"] for number in range(9)] + [["b", "bad"]], False),
        (["a film, they say", "verdict"], [["x", "1"]], False),  # no name of a column
        (["2", "fine"], [["1", "poor"]], False),
        (["text", "text"], [["a", "b"]], False),
        ([], [], False),
    ],
)
def test_what_looks_like_a_header(first: list[str], rows: list[list[str]], expected: bool) -> None:
    assert is_header(first, rows) is expected


def test_a_header_that_would_become_a_record_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\na film,good\n")
    with pytest.raises(DataError, match=r"looks like one \(text, label\): say which it is with --header yes or no"):
        read_records(path, (1, 2))
    assert read_records(path, (1, 2), header=False)[0].values == {"1": "text", "2": "label"}
    assert read_records(path, (1, 2), header=True)[0]["1"] == "a film"


def test_a_missing_column_says_which_option_of_the_task_names_it(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\na film,good\n")
    with pytest.raises(DataError) as caught:
        read(read_task("classify(text=review)"), str(path), DataSpec())
    assert str(caught.value).endswith("from 1. Name the one that is meant: classify(text=...)")


def test_a_bracket_that_is_missing_is_named() -> None:
    with pytest.raises(SpecError, match=r"a closing bracket '\)' is missing"):
        read_task("classify(text=review")


def test_predictions_are_written_into_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no folder .*; make it first"):
        AnswerFile(tmp_path / "absent" / "o.csv", {}, format="csv")
    assert not (tmp_path / "absent").exists()
