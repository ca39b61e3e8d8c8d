"""Budgets that are too small: what is done all the same, how long that takes, and what is said of it."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from attentune.search.book import Book, Outcome
from attentune.search.obligations import obligatory_seconds
from attentune.search.progress import Quiet
from attentune.search.protocol import protocol
from attentune.search.result import Measure, TrialRecord
from attentune.search.space import StudySpec, parse_budget
from attentune.search.stages import screened_text, shortfall
from attentune.search.subject import Subject
from search.test_finals import under_way

SPEC = StudySpec(budget="20s", steps=16)
SPEED = {"step_seconds": 0.1, "evaluation_seconds": 0.0, "judging_seconds": 0.01, "trial_seconds": 1.0}
SUBJECT = Mock(spec=Subject, search_evaluations=3, size=100, whole=1000, measure=Measure())


def book(done: dict[str, float], **notes: Any) -> Any:
    """A book with finished trials by key and seconds, and with decisions."""
    outcomes = {
        key: Outcome(
            TrialRecord(
                number=number,
                stage="evaluation" if key.startswith("finals/") else "objective",
                arm="x",
                status="complete",
                loss=1.0,
                seconds=seconds,
                tokens=10,
            )
        )
        for number, (key, seconds) in enumerate(done.items())
    }
    held = {"calibration": SPEED, "search steps": 20, "search size": 50, **notes}
    return Mock(spec=Book, outcomes=outcomes, noted=lambda key, default=None: held.get(key, default))


def least(done: dict[str, float], **notes: Any) -> float | None:
    return obligatory_seconds(SPEC, SUBJECT, book(done, **notes))


def test_what_is_left_shrinks_as_trials_end() -> None:
    # a search trial 1 + 1.06 * 20 * .1 + .5 = 3.62, a final 1 + 1.06 * 16 * .1 + 1 = 3.696, the last check 14
    assert least({}) == pytest.approx(6 * 3.62 + 6 * 3.696 + 14)
    tuned = {f"tuned baseline/{index}": 7.24 for index in range(6)}  # twice as slow as was predicted
    assert least(tuned) == pytest.approx(6 * 2 * 3.696 + 14)
    candidate = {**tuned, "screening/position/rotary": 7.24}
    assert least(candidate) == pytest.approx(6 * 7.24 + 9 * 2 * 3.696 + 14)  # five trials, one in return; three arms
    plan = {"steps": 16, "names": ["baseline", "tuned"]}
    assert least({**tuned, "finals/baseline/0": 5.0}, finals=plan) == pytest.approx(5 * 5.0 + 14)
    over = {f"finals/{name}/{seed}": 5.0 for name in ("baseline", "tuned") for seed in range(3)}
    assert least({**tuned, **over}, finals=plan) == pytest.approx(14)


def test_without_a_clock_nothing_is_said_before_the_first_trial() -> None:
    assert least({}, calibration=None) is None
    assert least({"tuned baseline/0": 4.0}, calibration=None) == pytest.approx(5 * 4 + 6 * 4 + 14)


def study(budget: str, done: dict[str, float], *, elapsed: float, **notes: Any) -> Any:
    held = book(done, **notes)
    spec = SPEC.replace(budget=budget)
    runs = under_way(spec, book=held, subject=SUBJECT, budget=parse_budget(budget), progress=Quiet())
    runs.__class__ = type("Still", (type(runs),), {"elapsed": elapsed, "search_steps": lambda self: 20})
    return runs


def test_minutes_that_remain_are_not_zero_seconds() -> None:
    assert study("20s", {}, elapsed=25.0).seconds_left() == pytest.approx(6 * 3.62 + 6 * 3.696 + 14)
    assert study("10m", {}, elapsed=100.0).seconds_left() == pytest.approx(500)
    done = {"tuned baseline/0": 4.0}
    runs = study("11-tokens", done, elapsed=8.0, calibration=None)
    assert runs.seconds_left() == pytest.approx(5 * 4 + 6 * 4 + 14)  # one token more would take .8 s


def test_a_budget_too_small_is_told_at_the_start() -> None:
    assert shortfall(study("20s", {}, elapsed=5.0)) == (
        "20s is less than 6 tuning trials, the finals and the last check need; expect about 1 min 10 s, and few "
        "candidates or none"
    )
    assert shortfall(study("2m", {}, elapsed=5.0)) is None
    told = shortfall(study("1k-tokens", {}, elapsed=5.0))
    assert told is not None and "expect about 166k tokens" in told  # (6 * 20 + 2 * 3 * 16) steps of 12 * 64
    assert shortfall(study("170k-tokens", {}, elapsed=5.0)) is None


@pytest.mark.parametrize(
    ("count", "skipped", "summary", "kept"),
    [
        (
            0,
            9,
            "No candidate was tried: the budget left no room for any of 9.",
            "nothing was tried, so nothing changes",
        ),
        (0, 0, "No candidate was tried: the study has none for this stage.", "nothing was tried, so nothing changes"),
        (1, 0, "1 candidate: 2.0 before, 1.9 after.", "no candidate gained more than the margin of 0.002"),
        (3, 2, "3 candidates: 2.0 before, 1.9 after. The budget left no room for 2 more.", "no candidate gained"),
    ],
)
def test_stages_say_what_was_tried(count: int, skipped: int, summary: str, kept: str) -> None:
    found = screened_text(count, skipped, "2.0", "1.9", 0.002)
    assert found[0] == summary
    assert found[1].startswith(kept)


def test_the_protocol_speaks_of_a_candidate_only_where_there_was_one() -> None:
    judged = Mock(spec=Subject, measure=Measure(answers=30), protocol=lambda tokens, folds: "Seen.")
    with_one = " ".join(protocol(SPEC, judged, 30, candidate="tuned"))
    assert "Baseline and candidate were tuned with 6 trials each" in with_one
    assert "As all seeds are judged by the same records" in with_one and "n = 30 answers" in with_one
    assert "the jackknife" in with_one and "which counts changes in both directions" in with_one
    folded = " ".join(protocol(SPEC.replace(folds=5), judged, 30, candidate="tuned"))
    assert (
        "wider by a factor of sqrt(1 + 5 / 4)" in folded
        and "all seeds" not in folded
        and "jackknife" not in folded
        and "Nadeau" not in with_one
    )
    judged.measure = Measure()
    alone = " ".join(protocol(SPEC, judged, 30, candidate="was tried"))
    assert "no candidate was tried." in alone and "The baseline was tuned with 6 trials" in alone
    assert "answers" not in alone and "attention compares" not in alone
