"""Which finalist is shipped, and why: prices, bounds, and seeds with which it broke."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from attentune.search.analysis import difference
from attentune.search.book import Book
from attentune.search.comparison import Finals, compare, decision
from attentune.search.finals import deployed_job
from attentune.search.recipe import baseline_recipe
from attentune.search.result import ArmResult, Measure, TrialRecord
from attentune.search.runs import Runs
from attentune.search.space import ObjectiveSpec, StudySpec
from attentune.search.text_subject import TextSubject

SEEDS = (0, 1, 2)
Kind = TypeVar("Kind")


def bare(kind: type[Kind], **parts: Any) -> Kind:
    """An instance of `kind` that holds `parts` and nothing else: what is compared needs no study under way."""
    made = object.__new__(kind)
    for name, part in parts.items():
        object.__setattr__(made, name, part)
    return made


def under_way(spec: StudySpec, records: tuple[TrialRecord, ...] = (), **parts: Any) -> Runs:
    subject = bare(TextSubject, measure=Measure())
    outcomes = {f"{record.number}": SimpleNamespace(record=record) for record in records}
    named = {"subject": subject, "book": bare(Book, outcomes=outcomes), **parts}
    return bare(Runs, spec=spec, base=baseline_recipe(spec), **named)


def arm(name: str, losses: tuple[float, ...], **costs: Any) -> ArmResult:
    return ArmResult(name=name, attention=name, seeds=SEEDS[: len(losses)], losses=losses, **costs)


def compared(
    winner: ArmResult, tuned: ArmResult, baseline: ArmResult | None = None, *, candidate: bool = True, **objective: Any
) -> tuple[str, str]:
    spec = StudySpec(objective=ObjectiveSpec(**objective))
    base = baseline_recipe(spec)
    runs = under_way(spec)
    recipes = {"baseline": base, "tuned": base, "winner": base.holding("position", "rotary")}
    plain = baseline or arm("baseline", (2.0, 2.01, 2.02))
    arms = {"baseline": plain, "tuned": tuned, "winner": winner}
    finals: Finals = compare(runs, recipes, arms, 10, candidate=candidate)
    found = difference("attention", tuned, winner, detail=finals.attention.detail)
    assert finals.attention == found.replace(saved=finals.attention.saved)
    return finals.deployed, decision(runs, finals)


BETTER, EQUAL = (1.80, 1.812, 1.82), (1.90, 1.912, 1.918)
TUNED = arm("tuned", (1.90, 1.91, 1.92), tokens_per_second=1000.0, latency_ms=2.0)


def test_a_gain_beyond_noise_is_shipped() -> None:
    assert compared(arm("winner", BETTER, tokens_per_second=100.0), TUNED)[0] == "winner"
    deployed, reason = compared(arm("winner", EQUAL), TUNED)
    assert (deployed, reason) == (
        "tuned",
        "the candidate attention had no gain beyond noise, but tuning gained: the tuned baseline is deployed",
    )


def test_it_says_what_had_no_gain_and_why_the_shipped_one_is() -> None:
    worse, better = arm("baseline", (1.80, 1.91, 1.95)), arm("baseline", (1.88, 1.95, 1.915))
    assert compared(arm("winner", EQUAL), TUNED, worse) == (
        "baseline",
        (
            "the candidate attention had no gain beyond noise, and tuning brought no gain beyond noise and a "
            "worse mean "
            "(1.9100 against 1.8867): the untuned baseline is deployed"
        ),
    )
    assert compared(arm("winner", EQUAL), TUNED, better) == (
        "tuned",
        (
            "the candidate attention had no gain beyond noise, nor did tuning gain beyond noise: the tuned baseline is "
            "deployed, whose mean is no worse"
        ),
    )
    clearly = arm("baseline", (1.80, 1.811, 1.82))
    found, reason = compared(arm("winner", EQUAL), TUNED, clearly)
    assert found == "baseline" and "tuning made it worse (1.9100 against 1.8103)" in reason
    slow = arm("baseline", (1.80, 1.81, 1.82), latency_ms=7.0)
    found, reason = compared(arm("winner", EQUAL, latency_ms=2.0), TUNED, slow, max_latency_ms=5)
    assert found == "tuned" and "the untuned baseline breaks a bound of the objective" in reason
    once = arm("baseline", (1.80, 1.81))
    assert "the untuned baseline could not be trained with every seed" in compared(TUNED, TUNED, once)[1]


def test_without_a_candidate_nothing_is_said_of_its_gain() -> None:
    found, reason = compared(TUNED, TUNED, candidate=False)
    assert (found, reason) == (
        "tuned",
        "no candidate attention was tried, but tuning gained: the tuned baseline is deployed",
    )
    broke = TrialRecord(number=0, stage="adaptivity", arm="candidate", status="failed", reason="it broke")
    spec = StudySpec()
    base, runs = baseline_recipe(spec), under_way(spec, (broke,))
    arms = {"baseline": arm("baseline", (2.0, 2.01, 2.02)), "tuned": TUNED, "winner": TUNED}
    finals = compare(runs, {"baseline": base, "tuned": base, "winner": base}, arms, 10, candidate=False)
    assert decision(runs, finals).startswith("no candidate attention could be trained, ")


@pytest.mark.parametrize(
    ("losses", "speed", "latency", "trade", "deployed"),
    [
        (BETTER, 250.0, 2.0, {"tokens_per_second": 0.2}, "tuned"),  # gains 0.1, at a quarter of the speed
        (BETTER, 250.0, 2.0, {"tokens_per_second": 0.01}, "winner"),
        (EQUAL, 4000.0, 2.0, {"tokens_per_second": 0.05}, "winner"),  # no gain, but four times as fast
        (EQUAL, 1000.0, 1.0, {"latency_ms": 0.05}, "winner"),
        (BETTER, 1000.0, 8.0, {"latency_ms": 0.1}, "tuned"),
    ],
)
def test_prices_count_in_what_is_shipped(
    losses: tuple[float, ...], speed: float, latency: float, trade: dict[str, float], deployed: str
) -> None:
    winner = arm("winner", losses, tokens_per_second=speed, latency_ms=latency)
    found, reason = compared(winner, TUNED, trade=trade)
    assert found == deployed
    if found == "tuned":
        assert reason.startswith("the candidate attention's gain is not worth its cost")


def test_what_wins_by_its_cost_alone_is_not_called_better() -> None:
    worse = arm("winner", (2.00, 2.012, 2.018), tokens_per_second=4000.0)
    assert compared(worse, TUNED, trade={"tokens_per_second": 0.1}) == (
        "winner",
        (
            "at the objective's prices the attention saves 0.2000, more than the 0.1000 ± 0.0050 that it loses in "
            "quality: the winner is deployed"
        ),
    )
    assert compared(arm("winner", EQUAL, tokens_per_second=4000.0), TUNED, trade={"tokens_per_second": 0.05}) == (
        "winner",
        (
            "the attention had no gain in quality beyond noise (0.0000 ± 0.0050), but at the objective's prices it "
            "saves 0.1000: the winner is deployed"
        ),
    )
    better = arm("winner", BETTER, tokens_per_second=4000.0)
    assert compared(better, TUNED, trade={"tokens_per_second": 0.05})[1].startswith("the attention is better beyond")


def test_gains_over_folds_have_the_band_of_folds() -> None:
    spec = StudySpec(folds=3)
    runs, base = under_way(spec), baseline_recipe(spec)
    recipes = {"baseline": base, "tuned": base, "winner": base.holding("position", "rotary")}
    arms = {"baseline": arm("baseline", BETTER), "tuned": TUNED, "winner": arm("winner", EQUAL)}
    arms["without position"] = arm("without position", BETTER)
    finals = compare(runs, recipes, arms, 10)
    assert [one.folds for one in (finals.tuning, finals.attention, *finals.slots)] == [3, 3, 3]


def test_a_winner_that_breaks_a_bound_or_a_seed_is_not_shipped() -> None:
    slow = arm("winner", BETTER, latency_ms=9.0)
    assert compared(slow, TUNED, max_latency_ms=5)[0] == "tuned"
    assert compared(slow, TUNED, max_latency_ms=5)[1].startswith("the candidate attention breaks a bound")
    five = {"baseline": (2.0, 2.01, 2.02, 2.0, 2.0), "tuned": (1.90, 1.91, 1.92, 1.9, 1.9)}
    assert len(five["tuned"]) == 5
    unsure = ArmResult(name="winner", attention="w", seeds=(0, 1, 2), losses=BETTER)
    steady = ArmResult(name="tuned", attention="t", seeds=(0, 1, 2, 3, 4), losses=five["tuned"])
    deployed, reason = compared(unsure, steady)
    assert (deployed, reason) == (
        "tuned",
        (
            "the candidate attention could not be trained with every seed, but tuning gained: "
            "the tuned baseline is deployed"
        ),
    )


def test_what_is_shipped_is_a_run_that_did_not_break() -> None:
    spec = StudySpec()
    base = baseline_recipe(spec)
    outcomes = {
        f"finals/{name}/{seed}": SimpleNamespace(record=SimpleNamespace(number=10 * place + seed))
        for place, name in enumerate(("baseline", "tuned", "winner"))
        for seed in SEEDS
    }
    book = bare(Book, folder=Path("study"), outcomes=outcomes)
    runs = under_way(spec, book=book)
    broke = ArmResult(name="winner", attention="w", seeds=(1, 2), losses=(1.8, 1.81))
    recipes = {"baseline": base, "tuned": base, "winner": base.holding("position", "rotary")}
    finals = compare(runs, recipes, {"baseline": TUNED, "tuned": TUNED, "winner": broke}, 10)
    assert [deployed_job(runs, finals, name).seed for name in ("baseline", "tuned", "winner")] == [0, 0, 1]
    assert deployed_job(runs, finals, "winner").folder == Path("study/trials/0021")
