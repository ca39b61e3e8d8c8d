"""A study's result: rules, exact round trip, and the lookups that the report relies on."""

from __future__ import annotations

import pytest

from attentune.errors import SpecError, StudyError
from attentune.search.result import ArmResult, Constraint, StudyResult, TrialRecord


def test_json_round_trip_is_exact_in_values_and_types(study_result: StudyResult) -> None:
    again = StudyResult.from_json(study_result.to_json())
    assert again == study_result
    assert again.to_json() == study_result.to_json()
    settings = again.trials[0].settings
    assert {name: type(value) for name, value in settings.items()} == {
        name: type(value) for name, value in study_result.trials[0].settings.items()
    }


def test_types_of_settings_survive_json() -> None:
    settings: dict[str, bool | int | float | str] = {"a": 1, "b": 1.0, "c": True, "d": "1", "e": float("inf")}
    trial = TrialRecord(number=0, stage="parameters", arm="candidate", status="complete", settings=settings, loss=1.5)
    again = TrialRecord.model_validate_json(trial.model_dump_json())
    assert again.settings == settings
    assert [type(value) for value in again.settings.values()] == [int, float, bool, str, float]


def test_a_complete_trial_needs_a_loss_and_a_refused_one_a_reason() -> None:
    with pytest.raises(SpecError, match="trial 7 has none"):
        TrialRecord(number=7, stage="parameters", arm="candidate", status="complete")
    with pytest.raises(SpecError, match="trial 8 has no reason"):
        TrialRecord(number=8, stage="parameters", arm="candidate", status="refused")
    with pytest.raises(SpecError, match="finite"):
        TrialRecord(number=9, stage="parameters", arm="candidate", status="complete", loss=float("nan"))


def test_an_arm_has_one_loss_for_each_seed() -> None:
    with pytest.raises(SpecError, match="got 1 for 2"):
        ArmResult(name="winner", attention="heads=4", seeds=(0, 1), losses=(1.5,))
    assert ArmResult(name="winner", attention="heads=4", seeds=(0, 1), losses=(1.0, 2.0)).loss == 1.5


def test_finals_are_the_complete_runs_of_one_finalist(study_result: StudyResult) -> None:
    finals = study_result.finals("winner")
    assert [trial.seeds[0] for trial in finals] == list(study_result.seeds)
    assert [trial.loss for trial in finals] == list(study_result.winner.losses)
    assert study_result.finals("nobody") == ()


def test_a_constraint_is_inclusive_at_both_ends() -> None:
    bound = Constraint(cost="latency_ms", at_least=1.0, at_most=2.0)
    assert [bound.met_by(value) for value in (0.9, 1.0, 2.0, 2.1)] == [False, True, True, False]


@pytest.mark.parametrize("text", ["", "{", '{"name": "x"}', "[]"])
def test_text_that_is_no_result_is_one_clear_line(text: str) -> None:
    with pytest.raises(StudyError, match=r"^result.json cannot be read: ") as caught:
        StudyResult.from_json(text, where="result.json")
    assert "\n" not in str(caught.value)


def test_a_broken_number_deep_inside_is_named(study_result: StudyResult) -> None:
    text = study_result.to_json().replace('"vocabulary": 65', '"vocabulary": -1')
    with pytest.raises(StudyError, match=r"data\.?.*vocabulary"):
        StudyResult.from_json(text)
