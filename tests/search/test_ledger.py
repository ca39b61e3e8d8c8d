"""The ledger: every setting in a column, nothing lost on the way to the disk and back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attentune.errors import StudyError
from attentune.search.ledger import OWN_COLUMNS, ledger_text, read_ledger, write_ledger
from attentune.search.result import Scalar, StudyResult, TrialRecord


def candidate(number: int, given_settings: dict[str, Scalar], reason: str = "") -> TrialRecord:
    return TrialRecord(
        number=number,
        stage="parameters",
        arm="candidate",
        status="complete",
        settings=given_settings,
        loss=1.5,
        reason=reason,
    )


def test_a_whole_study_comes_back(tmp_path: Path, study_result: StudyResult) -> None:
    trials = study_result.trials
    write_ledger(tmp_path / "ledger.csv", trials)
    assert read_ledger(tmp_path / "ledger.csv") == trials


def test_one_row_per_trial_and_a_column_per_setting_in_stable_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    write_ledger(path, [candidate(2, {"b": 2, "c": 0.5}), candidate(1, {"a": 1, "b": True})])
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == [*OWN_COLUMNS[:4], "a", "b", "c", *OWN_COLUMNS[4:]]
    assert [row[:7] for row in rows[1:]] == [
        ["1", "parameters", "candidate", "complete", "1", "true", ""],
        ["2", "parameters", "candidate", "complete", "", "2", "0.5"],
    ]
    assert [[type(value) for value in trial.settings.values()] for trial in read_ledger(path)] == [
        [int, bool],
        [int, float],
    ]


TEXTS: tuple[str, ...] = (
    "",
    "1",
    "1.0",
    "true",
    "nan",
    "1e3",
    '"',
    '"x"',
    "a,b",
    "a\nb",
    "a\r\nb",
    " 1 ",
    "mask=causal & window(8)",
    "é",
)


@pytest.mark.parametrize("text", TEXTS)
def test_awkward_texts_stay_text(tmp_path: Path, text: str) -> None:
    trials = (candidate(0, {"attention": text, "loss": 3, "setting:x": 4}, reason=text),)
    write_ledger(tmp_path / "ledger.csv", trials)
    assert read_ledger(tmp_path / "ledger.csv") == trials
    assert isinstance(read_ledger(tmp_path / "ledger.csv")[0].settings["attention"], str)


characters = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
scalars = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), characters)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(characters, scalars, max_size=4), characters, st.floats(allow_nan=False, allow_infinity=False))
def test_any_setting_survives(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Scalar], reason: str, loss: float
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.csv"
    trials = (candidate(0, made, reason).replace(loss=loss, curve=((1, loss),), seeds=(3, 1)),)
    write_ledger(path, trials)
    again = read_ledger(path)
    assert again == trials
    assert [type(value) for value in again[0].settings.values()] == [type(value) for value in made.values()]


def test_an_empty_study_is_a_header(tmp_path: Path) -> None:
    assert ledger_text(()).splitlines() == [",".join(OWN_COLUMNS)]
    write_ledger(tmp_path / "ledger.csv", ())
    assert read_ledger(tmp_path / "ledger.csv") == ()


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    with pytest.raises(StudyError, match="no ledger at"):
        read_ledger(path)
    path.write_text("name,age\nx,1\n")
    with pytest.raises(StudyError, match="has no column 'number'"):
        read_ledger(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="cannot read the ledger"):
        read_ledger(path)


def test_a_damaged_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    text = ledger_text([candidate(0, {"a": 1}), candidate(1, {"a": 2})])
    path.write_text(text[: text.rindex("1.5")])
    with pytest.raises(StudyError, match="line 3: the number of cells"):
        read_ledger(path)
    path.write_text(text.replace("1.5", "fast"))
    with pytest.raises(StudyError, match=r"line 2: .*fast"):
        read_ledger(path)
    path.write_text(text.replace("complete,2", 'complete,"""x"'))
    with pytest.raises(StudyError, match="line 3"):
        read_ledger(path)
