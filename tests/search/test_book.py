"""The book keeps every trial the moment it is over, and takes up what a kill has left."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from sqlalchemy.event import listen

from attentune.errors import StorageError, StudyError
from attentune.search.book import Book, Outcome, Reporter
from attentune.search.ledger import read_ledger
from attentune.search.result import Status, TrialRecord
from attentune.search.strategy import Parameters

SPACE = {"rate": FloatDistribution(0.1, 10.0, log=True), "kind": CategoricalDistribution(("a", "b", "c"))}


class Killed(BaseException):
    """Stands for a kill: nothing in between may catch it."""


def outcome(number: int, loss: float, status: Status = "complete") -> Outcome:
    return Outcome(
        TrialRecord(number=number, stage="objective", arm="baseline", status=status, loss=loss, tokens=10, reason="x")
    )


class Work:
    """Finishes trials with a loss that depends on their parameters; dies before finishing number `dies_in`."""

    def __init__(self, dies_in: int | None = None) -> None:
        self.dies_in = dies_in
        self.done: list[tuple[int, Parameters]] = []

    def __call__(self, number: int, parameters: Parameters, report: Reporter) -> Outcome:
        report(1, 5.0)
        if number == self.dies_in:
            raise Killed
        self.done.append((number, parameters))
        return outcome(number, float(parameters.get("rate", 1.0)))


def fill(folder: Path, work: Work, *, count: int = 7, seed: int = 0) -> tuple[TrialRecord, ...]:
    book = Book(folder, seed=seed)
    try:
        for index in range(count):
            book.trial("phase", f"trial {index}", work, distributions=SPACE, steps=10)
        return book.records()
    finally:
        book.close()


def test_trials_are_found_again_and_not_run_twice(tmp_path: Path) -> None:
    first, second = Work(), Work()
    records = fill(tmp_path, first)
    assert fill(tmp_path, second) == records
    assert [number for number, _ in first.done] == list(range(7))
    assert second.done == []
    assert read_ledger(tmp_path / "ledger.csv") == records


@pytest.mark.parametrize("dies_in", [0, 3, 6])
def test_a_kill_changes_nothing(tmp_path: Path, dies_in: int) -> None:
    whole = Work()
    records = fill(tmp_path / "whole", whole)
    before, after = Work(dies_in), Work()
    with pytest.raises(Killed):
        fill(tmp_path / "killed", before)
    assert fill(tmp_path / "killed", after) == records
    assert before.done + after.done == whole.done


def test_a_trial_without_its_parameters_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Work()
    records = fill(tmp_path / "whole", whole)
    import optuna

    original = optuna.trial.Trial.set_user_attr
    left = 10

    def dies(trial: optuna.trial.Trial, key: str, value: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        original(trial, key, value)

    before, after = Work(), Work()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "set_user_attr", dies)
        with pytest.raises(Killed):
            fill(tmp_path / "killed", before)
    assert fill(tmp_path / "killed", after) == records
    assert before.done + after.done == whole.done


def test_given_parameters_are_not_drawn(tmp_path: Path) -> None:
    work = Work()
    book = Book(tmp_path, seed=0)
    book.trial("phase", "given", work, distributions=SPACE, given={"rate": 2.5, "other": "x"}, steps=10)
    assert work.done[0][1]["rate"] == 2.5
    assert work.done[0][1]["kind"] in "abc"
    assert book.parameters("given") == work.done[0][1]
    book.close()


def test_numbers_run_through_all_phases(tmp_path: Path) -> None:
    book = Book(tmp_path, seed=0)
    for index, phase in enumerate(("a", "b", "a", "c")):
        found = book.trial(phase, f"{phase} {index}", Work(), steps=10)
        assert found.record.number == index
    book.close()


def test_decisions_are_made_once(tmp_path: Path) -> None:
    book = Book(tmp_path, seed=0)
    assert book.decided("steps", lambda: {"steps": 100}) == {"steps": 100}
    book.note("elapsed", 1.0)
    book.note("elapsed", 2.0)
    book.close()
    again = Book(tmp_path, seed=0)
    assert again.decided("steps", lambda: {"steps": 999}) == {"steps": 100}
    assert again.noted("elapsed") == 2.0
    assert again.noted("nothing", 7) == 7
    again.close()


def test_pruning_goes_by_the_trials_of_the_phase(tmp_path: Path) -> None:
    book = Book(tmp_path, seed=0)

    def run(loss: float, pruned: list[bool]) -> object:
        def work(number: int, parameters: Parameters, report: Reporter) -> Outcome:
            pruned.append(report(3, loss))
            return outcome(number, loss, "pruned" if pruned[-1] else "complete")

        return work

    answers: list[bool] = []
    for index, loss in enumerate((1.0, 2.0, 3.0, 0.5)):
        book.trial("phase", f"trial {index}", run(loss, answers), steps=10)  # type: ignore[arg-type]
    assert answers == [False, False, True, False]
    book.trial("another", "alone", run(9.0, answers), steps=10)  # type: ignore[arg-type]
    book.trial("phase", "last", run(9.0, answers), steps=10, prunes=False)  # type: ignore[arg-type]
    assert answers[-2:] == [False, False]
    book.close()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0" + b"\7" * 4000)
    with pytest.raises(StudyError, match=r"study.db is not the database of a study, or is damaged"):
        Book(tmp_path, seed=0)


def test_a_ledger_that_a_kill_kept_from_its_last_row_is_completed(tmp_path: Path) -> None:
    book = Book(tmp_path, seed=0)
    book.trial("phase", "a", lambda number, parameters, report: outcome(number, 2.0), steps=1)
    book.close()
    (tmp_path / "ledger.csv").unlink()
    Book(tmp_path, seed=0).close()
    assert [record.loss for record in read_ledger(tmp_path / "ledger.csv")] == [2.0]


def test_a_damaged_outcome_is_one_line(tmp_path: Path) -> None:
    book = Book(tmp_path, seed=0)
    book.trial("phase", "a", lambda number, parameters, report: outcome(number, 2.0), steps=1)
    book.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute("update trial_user_attributes set value_json = '\"{}\"' where key = 'outcome'")
    with pytest.raises(StudyError, match=r"study.db is not the database of a study, or is damaged"):
        Book(tmp_path, seed=0)


def test_a_full_disk_is_a_storage_error_wherever_it_strikes(tmp_path: Path) -> None:
    book = Book(tmp_path, seed=0)

    def fill(connection: sqlite3.Connection, record: object) -> None:
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages}")

    listen(book._storage.engine, "connect", fill)
    book._storage.engine.dispose()
    with pytest.raises(StorageError, match=r"study.db: no space left on the disk"):
        book.note("much", "x" * 1_000_000)

    def losses(number: int, parameters: Parameters, report: Reporter) -> Outcome:
        for step in range(1, 3000):
            report(step, 1.0)
        raise AssertionError("the disk was not full")

    with pytest.raises(StorageError, match=r"study.db: no space left on the disk"):
        book.trial("decisions", "a", losses, steps=10)
    book.close()
