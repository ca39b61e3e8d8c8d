"""Sentences with tags: every scheme becomes IOB2."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest

from attentune.data.conll import read_conll
from attentune.data.encoding import DataWarning
from attentune.data.records import iterate_records, read_records
from attentune.data.tagging import as_iob2
from attentune.errors import DataError
from shape_checks import unchecked


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def test_columns_separators_and_what_ends_a_sentence(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.conll",
        "\ufeff-DOCSTART- -X- -X- O\r\n\r\nEU NNP I-NP B-ORG\r\nrejects VBZ I-VP O\r\n"
        "\t\r\nPeter NNP I-NP B-PER\r\n\ufeff\r\n",
    )
    first, second = read_conll(path)
    assert first.values == {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}
    assert second.values == {"tokens": ["Peter"], "tags": ["B-PER"]}
    assert (first.where, second.where) == (f"{path}, line 3", f"{path}, line 6")
    assert read_conll(path, tags=2)[0]["tags"] == ["NNP", "VBZ"]  # parts of speech stay as they are
    assert read_conll(path, tokens=-3, tags=None)[0].values == {"tokens": ["NNP", "VBZ"]}
    assert list(iterate_records(path, ("tokens", "tags"), skip=1)) == [second]


def test_chinese_by_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bmes", "北 B-LOC\n大 M-LOC\n京 E-LOC\n好 O\n鲁 S-PER\n\n\u3000 O\n吃 O\n")
    first, second = read_records(path, ("tokens", "tags"))
    assert first.values == {"tokens": list("北大京好鲁"), "tags": ["B-LOC", "I-LOC", "I-LOC", "O", "B-PER"]}
    assert second["tokens"] == ["\u3000", "吃"]
    spaced = write(tmp_path / "b.txt", "New York\tB-LOC\n#tag\tO\n")
    assert read_conll(spaced)[0]["tokens"] == ["New York", "#tag"]


def test_a_file_without_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "one\ntwo\n\nthree\n")
    assert [record.values for record in read_records(path, ("tokens",))] == [
        {"tokens": ["one", "two"]},
        {"tokens": ["three"]},
    ]
    with pytest.raises(DataError, match=r"a\.conll, line 1 has no column 'tags'; known: tokens"):
        read_records(path, ("tokens", "tags"))


@pytest.mark.parametrize(
    ("scheme", "tags", "expected"),
    [
        ("iob1", "I-A I-A B-A O I-B I-A", "B-A I-A B-A O B-B B-A"),
        ("iob2", "B-A I-A B-A O B-B B-A", "B-A I-A B-A O B-B B-A"),
        ("bioes", "B-A E-A S-A O S-B B-A I-A E-A", "B-A I-A B-A O B-B B-A I-A I-A"),
        ("bioes", "B-A L-A U-A O U-B B-A M-A L-A", "B-A I-A B-A O B-B B-A I-A I-A"),
    ],
)
def test_schemes_are_found_and_become_iob2(tmp_path: Path, scheme: str, tags: str, expected: str) -> None:
    path = write(tmp_path / "a.conll", "".join(f"w {tag}\n" for tag in tags.split()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = read_conll(path)
        (named,) = read_conll(path, scheme=scheme)  # type: ignore[arg-type]
    assert found["tags"] == named["tags"] == expected.split()


def test_what_is_legal_iob2_is_left_alone_and_all_else_is_made_legal() -> None:
    """Every sequence of four tags: what comes out is legal, and is the same where nothing was broken."""
    for tags in itertools.product(["O", "B-A", "I-A", "B-B", "I-B"], repeat=4):
        legal = all(tag[0] != "I" or before[2:] == tag[2:] for before, tag in zip(("O", *tags), tags, strict=False))
        result, broken = as_iob2(tags, "iob2")
        assert (not broken) == legal
        assert not legal or result == list(tags)
        assert as_iob2(result, "iob2") == (result, [])


@pytest.mark.parametrize(
    ("tags", "line"), [("O E-A S-B", 2), ("B-A S-A", 2), ("S-A O B-A O S-A", 4), ("S-A O B-A", 3), ("B-A E-B S-A", 2)]
)
def test_broken_bioes(tmp_path: Path, tags: str, line: int) -> None:
    path = write(tmp_path / "a.conll", "".join(f"w {tag}\n" for tag in tags.split()))
    with pytest.warns(DataWarning, match=rf"a\.conll: 1 tag breaks the rules of BIOES.*: line {line}$"):
        read_conll(path, scheme="bioes")


def test_broken_tags_are_counted_with_their_lines_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "a O\nb B-X\n\n" + "a O\nb I-X\nc I-X\n\n" + "a B-X\nb O\n\n" * 9)
    with pytest.warns(DataWarning, match=r"a\.conll: 1 tag breaks the rules of IOB2.*: line 5$"):
        assert read_conll(path)[1]["tags"] == ["O", "B-X", "I-X"]
    with pytest.raises(DataError, match=r"a\.conll, line 5: 1 tags break the rules of IOB2; repair them"):
        read_conll(path, strict=True)
    with pytest.warns(DataWarning, match=r"10 tags break the rules of IOB1.*: lines 2, 8, 11, 14, 17 and more$"):
        read_conll(path, scheme="iob1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no sentences"),
        ("\n \n", "holds no sentences"),
        ("a O\nb\n", "line 2 has 1 columns, cut by spaces, but the first has 2"),
        ("a\tO\nb O\n", "line 2 has 1 columns, cut by tabs, but the first has 2"),
        ("a\tO\n\tO\n", "line 2: the column of tokens is empty"),
        ("a\tO\nb\t\n", "line 2: the column of tags is empty"),
        ("a\tB-X\nb\tX\n", "line 2: tag 'X' is neither O nor, as others are, B-, I-, E- or S- with a kind"),
    ],
)
def test_errors(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_conll(write(tmp_path / "a.conll", content))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "a O\n")
    with pytest.raises(DataError, match="line 1 has 2 columns and so no column 3 of tags"):
        read_conll(path, tags=3)
    with pytest.raises(DataError, match="no scheme of tags is called 'iob'; did you mean"):
        unchecked(read_conll)(path, scheme="iob")


@pytest.mark.parametrize(
    ("name", "sentences", "tokens", "entities"),
    [("wnut17train.conll", 3_394, 62_730, 1_975), ("emerging.test.annotated", 1_287, 23_394, 1_079)],
)
def test_real_files(shared_data: Path, name: str, sentences: int, tokens: int, entities: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = read_records(shared_data / "wnut17" / name, ("tokens", "tags"))
    assert len(records) == sentences
    assert sum(len(record["tokens"]) for record in records) == tokens
    assert sum(tag.startswith("B-") for record in records for tag in record["tags"]) == entities


def test_a_real_file_with_a_stray_mark_and_a_broken_tag(shared_data: Path) -> None:
    with pytest.warns(DataWarning, match="1 tag breaks the rules of IOB2"):
        records = read_records(shared_data / "wnut17" / "emerging.dev.conll", ("tokens", "tags"))
    assert len(records) == 1_009  # 1,008 blank lines, and the last sentence has none behind it
    assert records[-1]["tokens"][-1] == "!"
    assert sum(len(record["tokens"]) for record in records) == 15_733


def test_tags_that_nobody_asks_for_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "Aspirin\tB-drug\nand\tNN\n\nB12\t\n")
    with pytest.raises(DataError, match=r"tag 'NN' is neither O nor|column of tags is empty"):
        read_records(path, ("tokens", "tags"))
    first, second = read_records(path, ("tokens",))
    assert (first["tokens"], first["tags"]) == (["Aspirin", "and"], ["B-drug", "NN"])
    assert (second["tokens"], second["tags"]) == (["B12"], [""])
