"""Sampling that depends on (seed, number) alone, and successive halving as a function of the stored losses."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from attentune.search.recipe import baseline_recipe
from attentune.search.space import StudySpec, TuningSpace
from attentune.search.strategy import (
    Halving,
    given_parameters,
    make_sampler,
    rung_steps,
    tuned,
    tuning_distributions,
)

SPEC = StudySpec(tuning=TuningSpace(optimizers=("adamw", "muon"), schedules=("cosine", "wsd")))


def drawn(seed: int, count: int = 8) -> list[dict[str, object]]:
    study = optuna.create_study()
    for number in range(count):
        study.sampler = make_sampler(seed, number)
        trial = study.ask(fixed_distributions=tuning_distributions(SPEC))
        study.tell(trial, float(trial.number))
    return [trial.params for trial in study.get_trials()]


def test_draws_depend_on_seed_and_number_alone() -> None:
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len({str(parameters) for parameters in drawn(0)}) == 8


def test_only_choices_are_drawn() -> None:
    assert set(tuning_distributions(SPEC)) == {
        "optimizer",
        "schedule",
        "learning_rate_adamw",
        "learning_rate_muon",
    }
    assert set(tuning_distributions(StudySpec(tuning=TuningSpace(schedules=("cosine",))))) == {"learning_rate_adamw"}


def test_a_draw_becomes_a_recipe() -> None:
    base = baseline_recipe(SPEC)
    found = tuned(base, SPEC, {"optimizer": "muon", "schedule": "wsd", "learning_rate_muon": 0.02})
    assert (found.settings.optimizer, found.settings.learning_rate, found.settings.schedule) == ("muon", 0.02, "wsd")
    assert found.slots == base.slots
    assert found.settings.weight_decay == base.settings.weight_decay


def test_the_first_trials_are_the_middle_of_each_range() -> None:
    first, second = given_parameters(SPEC, baseline_recipe(SPEC))
    assert first["optimizer"] == "adamw" and first["learning_rate_adamw"] == pytest.approx((1e-3 * 1e-2) ** 0.5)
    assert second["optimizer"] == "muon" and second["learning_rate_muon"] == pytest.approx((5e-3 * 5e-2) ** 0.5)


def halved(losses: list[float], own: float, *, steps: int = 10, rivals: list[dict[int, float]] | None = None) -> bool:
    """Whether a trial that has `own` at the first rung is pruned after trials that had `losses` there."""
    rung = rung_steps(steps)[0]
    study = optuna.create_study(pruner=Halving(steps, rivals or []))
    for loss in losses:
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.0, intermediate_values={rung: loss}))
    trial = study.ask()
    trial.report(own, rung)
    first = trial.should_prune()
    assert trial.should_prune() == first  # asking changes nothing
    return first


def test_the_worse_half_is_pruned() -> None:
    assert not halved([1.0, 2.0, 3.0], 1.5)
    assert halved([1.0, 2.0, 3.0], 2.5)
    assert halved([1.0, 2.0, 3.0], 3.5)
    assert not halved([1.0, 2.0, 3.0, 4.0], 2.5)


def test_few_trials_are_not_pruned() -> None:
    assert not halved([], 9.0)
    assert not halved([1.0], 9.0)
    assert halved([1.0], 9.0, rivals=[{rung_steps(10)[0]: 2.0}])


def test_rungs_are_evaluation_steps() -> None:
    for steps in (8, 16, 57, 100, 700, 2000):
        every = max(1, -(-steps // 10))
        assert all(step % every == 0 and 0 < step < steps for step in rung_steps(steps))
    assert rung_steps(1000) == (300, 700)


def test_between_rungs_nothing_is_pruned() -> None:
    study = optuna.create_study(pruner=Halving(10))
    for loss in (1.0, 2.0, 3.0):
        study.add_trial(
            create_trial(state=TrialState.COMPLETE, value=0.0, intermediate_values=dict.fromkeys(range(1, 10), loss))
        )
    trial = study.ask()
    for step in (1, 2, 4, 5, 6, 8, 9):
        trial.report(99.0, step)
        assert not trial.should_prune()
