"""A whole study at a tiny size: what it leaves behind, and what kills, other studies and bad candidates do to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from attentune.errors import SpecError, StudyError
from attentune.models.checkpoint import load_model
from attentune.search.ledger import read_ledger
from attentune.search.progress import Quiet
from attentune.search.result import STAGES, Scalar, StageResult, StudyResult, TrialRecord
from attentune.search.space import ModelSizes, ObjectiveSpec, StudySpec, read_study
from attentune.search.study import optimize
from search.tiny_study import tiny_spec, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


class Listener(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.ended: list[TrialRecord] = []
        self.started: list[int] = []
        self.decided: list[StageResult] = []

    def stage_started(self, stage: Any, plan: str) -> None:
        self.stages.append(stage)

    def trial_started(self, number: int, arm: str, settings: Mapping[str, Scalar], *, done: int, planned: int) -> None:
        assert settings["attention"]
        assert 0 <= done < planned
        self.started.append(number)

    def trial_ended(self, record: TrialRecord, *, best: TrialRecord | None, seconds_left: float | None) -> None:
        self.ended.append(record)

    def stage_ended(self, result: StageResult) -> None:
        self.decided.append(result)


@pytest.fixture(scope="module")
def study(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, Path, Listener]:
    torch.set_num_threads(1)
    folder, listener = tmp_path_factory.mktemp("study"), Listener()
    return optimize(tiny_spec(text), out=folder, progress=listener, command="attentune optimize"), folder, listener


def comparable(result: StudyResult) -> dict[str, Any]:
    """Everything but what a clock, a memory gauge or the folder's name says."""
    timed = {"seconds", "tokens_per_second", "latency_ms", "peak_bytes", "started", "finished", "name", "model", "plan"}

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: stripped(held) for name, held in value.items() if name not in timed}
        return [stripped(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = stripped(result.model_dump(mode="json"))
    found["stages"] = found["stages"][:5]  # the last one names the folder
    return found


def test_six_stages_in_order(study: tuple[StudyResult, Path, Listener]) -> None:
    result, _, listener = study
    assert tuple(listener.stages) == STAGES
    assert tuple(stage.name for stage in result.stages) == STAGES
    assert [stage.name for stage in listener.decided] == list(STAGES)
    assert len(listener.ended) == len(result.trials)


def test_baseline_and_candidate_are_tuned_alike(study: tuple[StudyResult, Path, Listener]) -> None:
    result, _, _ = study
    tuning = [trial for trial in result.trials if trial.stage == "objective"]
    assert len(tuning) == 3
    assert {trial.arm for trial in tuning} == {"baseline"}
    candidate = [trial for trial in result.trials if trial.stage == "parameters" and trial.arm == "candidate"]
    assert len(candidate) == 2  # and the trial in which it was found
    assert {trial.settings["steps"] for trial in (*tuning, *candidate)} == {10}
    assert {trial.seeds for trial in (*tuning, *candidate)} == {(1000,)}


def test_finals_are_paired_and_complete(study: tuple[StudyResult, Path, Listener]) -> None:
    result, _, _ = study
    arms = [result.baseline, result.tuned, result.winner, *result.ablations]
    assert {arm.seeds for arm in arms} == {(0, 1, 2)}
    tokens = {trial.tokens for trial in result.trials if trial.stage == "evaluation"}
    assert tokens == {12 * 4 * 16}
    assert result.tuning.gain == pytest.approx(result.baseline.loss - result.tuned.loss)
    assert result.attention.gain == pytest.approx(result.tuned.loss - result.winner.loss)
    plain = result.baseline.parameters
    assert plain is not None
    assert all(arm.parameters is not None and abs(arm.parameters - plain) <= 0.02 * plain for arm in arms)


def test_slots_are_switched_off_one_by_one(study: tuple[StudyResult, Path, Listener]) -> None:
    result, _, _ = study
    assert result.winner.attention != result.tuned.attention
    assert {arm.name for arm in result.ablations} == {f"without {found.what}" for found in result.slots}
    for found, arm in zip(result.slots, result.ablations, strict=True):
        assert found.gain == pytest.approx(arm.loss - result.winner.loss)


def test_the_folder_holds_what_it_should(study: tuple[StudyResult, Path, Listener], text: Path) -> None:
    result, folder, _ = study
    assert read_study(folder / "study.toml") == tiny_spec(text)
    assert StudyResult.from_json((folder / "result.json").read_text()) == result
    assert read_ledger(folder / "ledger.csv") == result.trials
    assert [trial.number for trial in result.trials] == list(range(len(result.trials)))
    assert "<html" in (folder / "report.html").read_text().lower()
    assert "pre" in (folder / "best" / "README.md").read_text()
    assert not (folder / "trials").exists()


def test_the_deployed_model_is_the_one_of_the_ledger(study: tuple[StudyResult, Path, Listener]) -> None:
    result, folder, _ = study
    assert result.deployment is not None and result.deployment.passed
    loaded = load_model(folder / "best")
    better = result.attention.verdict == "gain"
    arm = result.winner if better else result.tuned
    assert loaded.config["run"]["loss"] == arm.losses[0]
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == arm.parameters


def test_a_finished_study_returns_at_once(study: tuple[StudyResult, Path, Listener], text: Path) -> None:
    result, folder, _ = study
    listener = Listener()
    assert optimize(tiny_spec(text), out=folder, progress=listener) == result
    assert listener.started == []


@pytest.mark.parametrize(
    "count", [pytest.param(25, marks=pytest.mark.slow), 60, pytest.param(150, marks=pytest.mark.slow)]
)
def test_a_killed_study_goes_on_to_the_same_result(
    study: tuple[StudyResult, Path, Listener], text: Path, tmp_path: Path, count: int
) -> None:
    expected, _, _ = study
    program = [sys.executable, "-m", "search.tiny_study", str(text), str(tmp_path), str(count)]
    tests = Path(__file__).resolve().parent.parent
    died = subprocess.run(program, cwd=tests, check=False, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    before = read_ledger(tmp_path / "ledger.csv") if (tmp_path / "ledger.csv").exists() else ()
    listener = Listener()
    result = optimize(tiny_spec(text), out=tmp_path, progress=listener, command="attentune optimize")
    assert comparable(result) == comparable(expected)
    assert result.trials[: len(before)] == before
    assert not set(listener.started) & {trial.number for trial in before}


def test_another_configuration_is_refused(study: tuple[StudyResult, Path, Listener], text: Path) -> None:
    _, folder, _ = study
    with pytest.raises(StudyError, match=r"another configuration: batch was 4, is 8; use another folder"):
        optimize(tiny_spec(text, batch=8), out=folder)


def test_other_text_is_refused(study: tuple[StudyResult, Path, Listener], tmp_path: Path) -> None:
    _, folder, _ = study
    other = tmp_path / "other.txt"
    other.write_text("Quite another text. " * 400)
    with pytest.raises(StudyError, match=r"another configuration: text was"):
        optimize(tiny_spec(other), out=folder)


def test_a_second_process_is_kept_away(text: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StudyError, match="another process is at work"):
            optimize(tiny_spec(text), out=tmp_path)


def test_a_foreign_database_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all, but long enough to be looked at " * 100)
    with pytest.raises(StudyError, match=r"study.db is not the database of a study"):
        optimize(tiny_spec(text), out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"baseline": "heads=multi_head, position=rotray"}, "did you mean 'rotary'"),
        ({"model": ModelSizes(width=15, depth=1, heads=2)}, "heads must divide the width"),
    ],
)
def test_a_mistake_in_the_baseline_does_not_claim_the_folder(
    text: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        optimize(tiny_spec(text, **changes), out=tmp_path)
    assert not (tmp_path / "study.db").exists()


def test_bad_candidates_and_settings_are_recorded_and_do_not_stop_the_study(text: Path, tmp_path: Path) -> None:
    spec = tiny_spec(text, search_steps=8, steps=8, folds=3, objective=ObjectiveSpec(max_parameters=1e6))
    wild = spec.tuning.replace(trials=2, learning_rates={"adamw": (1e30, 1e38)}, schedules=("constant",))
    candidates = {"position": ("rotary(fraction=0.3)",), "heads": ("3",), "scores": ("qk_norm",)}
    result = optimize(spec.replace(tuning=wild, candidates=candidates), out=tmp_path)
    refused = [trial for trial in result.trials if trial.status == "refused"]
    assert len(refused) == 2
    assert any("rotary" in trial.reason and "0.3" in trial.reason for trial in refused)
    failed = [trial for trial in result.trials if trial.status == "failed"]
    assert failed and all("not finite" in trial.reason for trial in failed)
    assert result.tuned.settings["learning_rate"] == spec.settings.learning_rate
    assert result.seeds == (0, 1, 2)  # the folds
    assert [trial.number for trial in read_ledger(tmp_path / "ledger.csv")] == list(range(len(result.trials)))
    assert result.objective.constraints[0].cost == "parameters"


def test_a_misspelt_candidate_stops_the_study_before_it_claims_the_folder(text: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'rotary'"):
        optimize(tiny_spec(text, candidates={"position": ("rotory",)}), out=tmp_path)
    assert not (tmp_path / "study.db").exists()


def test_where_no_bound_can_be_kept_the_study_says_so(text: Path, tmp_path: Path) -> None:
    spec: StudySpec = tiny_spec(text, objective=ObjectiveSpec(max_parameters=10), search_steps=8)
    with pytest.raises(StudyError, match=r"no trial of the baseline met the objective: .* the objective allows 10"):
        optimize(spec, out=tmp_path)
