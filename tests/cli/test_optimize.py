"""`attentune optimize`: options to a study, the study as it is shown, and what is printed at the end."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attentune.cli import main
from attentune.cli.study_view import StudyView, study_text
from attentune.search.analysis import difference
from attentune.search.progress import StudyProgress
from attentune.search.result import (
    ArmResult,
    DataResult,
    DeploymentCheck,
    Sample,
    StageResult,
    StudyResult,
    TrialRecord,
)
from attentune.search.space import ModelSizes, StudySpec
from attentune.spec.ngrams import NgramSpec

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


def arm(name: str, attention: str, *losses: float) -> ArmResult:
    return ArmResult(name=name, attention=attention, seeds=(0, 1, 2), losses=losses)


def study(*, passed: bool) -> StudyResult:
    baseline = arm("baseline", "heads=4, mask=causal", 1.90, 1.91, 1.92)
    tuned = arm("tuned", "heads=4, mask=causal", 1.80, 1.81, 1.82)
    winner = arm("winner", "heads=4, position=rotary, mask=causal", 1.70, 1.712, 1.72)
    return StudyResult(
        name="test",
        task="lm",
        command="attentune optimize",
        versions={},
        machine={},
        seeds=(0, 1, 2),
        data=DataResult(
            description="text",
            fingerprint="f",
            tokenizer="char",
            vocabulary=65,
            train_tokens=900,
            validation_tokens=100,
        ),
        budget="10m",
        tokens_used=123_456,
        baseline=baseline,
        tuned=tuned,
        winner=winner,
        tuning=difference("tuning", before=baseline, after=tuned),
        attention=difference("attention", before=tuned, after=winner),
        sample=Sample(prompt="The ", text="quick brown fox"),
        deployment=DeploymentCheck(model="runs/x/best", max_logit_difference=0.0, tolerance=1e-5, passed=passed),
        started=STARTED,
        finished=STARTED + timedelta(minutes=4, seconds=2),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for the study: remembers what it was asked, tells one trial, and finds what `study` says."""
    seen = SimpleNamespace(spec=None, out=None, resume=None, passed=True)

    def optimize(spec: StudySpec, *, out: Path, resume: bool, progress: StudyProgress) -> StudyResult:
        seen.spec, seen.out, seen.resume = spec, out, resume
        progress.stage_started("objective", "minimise validation loss")
        return study(passed=seen.passed)

    monkeypatch.setitem(sys.modules, "attentune.search.study", SimpleNamespace(optimize=optimize))
    return seen


def test_the_study_is_the_one_asked_for(asked: SimpleNamespace, tmp_path: Path) -> None:
    config = tmp_path / "study.toml"
    config.write_text(
        'budget = "20m"\nseeds = [3, 4, 5]\n[model]\nwidth = 32\ndepth = 2\n'
        '[candidates]\nposition = ["rotary", "alibi"]\n'
    )
    arguments = ["--config", str(config), "--data", "book.txt", "--model.width", "64", "--budget", "5M-tokens"]
    assert main(["optimize", *arguments, "--out", str(tmp_path / "run"), "--restart"]) == 0
    assert (asked.spec.data.path, asked.spec.budget, asked.spec.seeds) == ("book.txt", "5M-tokens", (3, 4, 5))
    assert (asked.spec.model.width, asked.spec.model.depth) == (64, 2)
    assert asked.spec.candidates == {"position": ("rotary", "alibi")}
    assert (asked.out, asked.resume) == (tmp_path / "run", False)
    assert type(asked.spec) is StudySpec
    assert asked.spec.tuning == StudySpec().tuning


def test_help_has_options_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "subcommand" not in shown and "ngram-spec" not in shown
    assert "--model.ngrams.longest" in shown


def test_ngrams_are_asked_for_as_in_train(asked: SimpleNamespace, tmp_path: Path) -> None:
    assert main(["optimize", "--model.ngrams.longest", "3", "--model.width", "32"]) == 0
    assert (asked.spec.model.ngrams.longest, asked.spec.model.width) == (3, 32)
    assert type(asked.spec.model) is ModelSizes
    assert main(["optimize"]) == 0
    assert asked.spec == StudySpec()
    config = tmp_path / "study.toml"
    config.write_text("[model.ngrams]\nlongest = 2\nbuckets = 100\n")
    assert main(["optimize", "--config", str(config), "--model.ngrams.dropout", "0.5"]) == 0
    assert asked.spec.model.ngrams == NgramSpec(longest=2, buckets=100, dropout=0.5)


def test_what_was_found_is_told(asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["optimize", "--out", str(tmp_path)]) == 0
    caught = capsys.readouterr()
    assert caught.err == "[1/6] objective: minimise validation loss\n"
    assert "candidate 1.7107 nats/token  heads=4, position=rotary, mask=causal\n" in caught.out
    assert "Tuning the baseline lowered the validation loss by 0.1000 ± " in caught.out
    assert "The attention alone" in caught.out
    assert "0.0993 ± " in caught.out
    assert "4 min 2 s, 123,456 tokens" in caught.out
    assert f"report    {tmp_path}/report.html\nmodel     runs/x/best\n" in caught.out
    assert "The quick brown fox\n" in caught.out
    assert "attentune generate runs/x/best --prompt" in caught.out


def test_json_is_the_whole_result(asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["optimize", "--out", str(tmp_path), "--json"]) == 0
    assert StudyResult.from_json(capsys.readouterr().out) == study(passed=True)


def test_a_model_that_fails_its_check_is_code_1(asked: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    asked.passed = False
    assert main(["optimize"]) == 1
    assert "OTHER LOGITS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "3q"], "budget: write a time such as 10m or tokens such as 50M-tokens, got '3q'"),
        (["--seeds", "1", "2"], "seeds: at least 3 are needed to tell a gain from noise, got 2"),
        (["--candidates", "rotary"], "unknown option '--candidates'"),
        (["--widht", "3"], "unknown option '--widht'"),
        (["--test-path", "x.csv"], 'test_path is for tasks: name one, as in task = "classify(label=stars)"'),
    ],
)
def test_mistakes_are_one_line(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["optimize", *arguments]) == 2
    caught = capsys.readouterr().err
    assert caught.startswith(f"attentune: error: {says}")
    assert caught.count("\n") == 1


def tell(view: StudyView) -> None:
    done = TrialRecord(
        number=7, stage="adaptivity", arm="candidate", status="complete", loss=1.75, settings={"attention": "A"}
    )
    bad = TrialRecord(number=8, stage="adaptivity", arm="candidate", status="failed", reason="[nan] at step 3")
    view.text_prepared("encoding", 5, 10)
    view.noticed("20s is less than that")
    view.stage_started("adaptivity", "6 candidates")
    view.trial_started(7, "candidate", {"attention": "A"}, done=3, planned=20)
    view.trained(20, 40, 2.5, 1000.0)
    view.trial_ended(done, best=done, seconds_left=75.0)
    view.trial_started(8, "candidate", {"attention": "B"}, done=4, planned=20)
    view.trial_ended(bad, best=done, seconds_left=None)
    view.stage_ended(StageResult(name="adaptivity", summary="Nothing helped.", decision="softmax stays"))


def test_without_a_terminal_stages_and_failures_have_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with StudyView() as view:
        assert isinstance(view, StudyProgress)
        tell(view)
    assert capsys.readouterr().err.splitlines() == [
        "note: 20s is less than that",
        "[2/6] adaptivity: 6 candidates",
        "      8  failed: [nan] at step 3  candidate    (best 1.7500)",
        "    Nothing helped. Decided: softmax stays",
    ]


def test_on_a_terminal_every_trial_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with StudyView() as view:
        tell(view)
    shown: Any = capsys.readouterr().err
    assert "      7  1.7500  candidate  A" in shown
    assert "failed: [nan] at step 3" in shown
    assert "best 1.7500" in shown
    assert "5/20" in shown


def test_where_there_was_no_candidate_none_is_shown() -> None:
    found = study(passed=True)
    decided = StageResult(name="evaluation", summary="", decision="nothing was better: the tuned baseline is deployed")
    alone = found.replace(winner=found.tuned.replace(name="winner"), stages=(decided,))
    shown = study_text(alone, Path("runs/x"))
    assert "\ncandidate none was tried: the budget was too small\n" in shown
    assert "\ndeployed  nothing was better: the tuned baseline is deployed\n" in shown
    broke = TrialRecord(number=0, stage="adaptivity", arm="candidate", status="failed", reason="it broke")
    assert "\ncandidate none could be trained\n" in study_text(alone.replace(trials=(broke,)), Path("runs/x"))


def test_text_to_try_is_offered_where_the_model_can_write() -> None:
    found = study(passed=True)
    last = study_text(found, Path("runs/x")).splitlines()[-1]
    assert last == "more:     attentune generate runs/x/best --prompt The --tokens 400"
    assert "generate" not in study_text(found.replace(sample=None), Path("runs/x"))
