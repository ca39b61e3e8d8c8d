"""Trackers: what they record, and that a resumed run leaves no doubles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from attentune.errors import StorageError
from attentune.training.loop import train
from attentune.training.trackers import JsonlTracker, TensorBoardTracker
from training.standin import TinyLanguageModel, small_corpus, small_run


class CrashError(Exception):
    """A crash in the middle of training."""


def crash_at(wanted: int) -> Any:
    def crash(step: int, loss: float) -> None:
        if step == wanted:
            raise CrashError

    return crash


def lines(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record.pop("train/tokens_per_second", None)
    return records


def test_json_lines_of_a_resumed_run_are_those_of_a_whole_one(tmp_path: Path) -> None:
    run = small_run(steps=60, evaluate_every=5, checkpoint_every=40)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    train(TinyLanguageModel(), small_corpus(), run, trackers=[JsonlTracker(whole)])
    with pytest.raises(CrashError):
        train(
            TinyLanguageModel(),
            small_corpus(),
            run,
            folder=tmp_path / "run",
            trackers=[JsonlTracker(broken)],
            on_evaluation=crash_at(55),
        )
    with broken.open("a") as file:
        file.write('{"step": 56, "half a li')
    assert any(record["step"] > 40 for record in map(json.loads, broken.read_text().splitlines()[:-1]))
    train(TinyLanguageModel(), small_corpus(), run, folder=tmp_path / "run", trackers=[JsonlTracker(broken)])
    assert lines(broken) == lines(whole)
    losses = {record["step"]: record["train/loss"] for record in lines(whole) if "train/loss" in record}
    assert list(losses) == [20, 40, 60]


def test_the_reported_loss_is_the_mean_since_the_last_report(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    result = train(TinyLanguageModel(), small_corpus(), small_run(steps=30), trackers=[JsonlTracker(path)])
    losses = {record["step"]: record["train/loss"] for record in lines(path) if "train/loss" in record}
    assert losses == pytest.approx({20: sum(result.losses[:20]) / 20, 30: sum(result.losses[20:]) / 10})
    assert lines(path)[0]["config"]["run"]["steps"] == 30


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        train(
            TinyLanguageModel(), small_corpus(), small_run(), trackers=[JsonlTracker(tmp_path / "file" / "log.jsonl")]
        )


def test_tensorboard_events_can_be_read_back(tmp_path: Path) -> None:
    result = train(TinyLanguageModel(), small_corpus(), small_run(), trackers=[TensorBoardTracker(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    validation = {event.step: event.value for event in events.Scalars("validation/loss")}
    assert validation == pytest.approx({e.step: e.loss for e in result.evaluations})
    assert [event.step for event in events.Scalars("gradient/blocks.1")] == [15, 30]
