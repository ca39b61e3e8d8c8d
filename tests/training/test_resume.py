"""Killing and resuming: the same losses and weights, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attentune.errors import CheckpointError, StorageError, TrainingError
from attentune.spec.run import DataSpec, OptimizerSpec
from attentune.training.loop import train
from attentune.training.state import checkpoints
from training.standin import RememberingModel, TinyLanguageModel, small_corpus, small_run

HERE = Path(__file__).resolve().parent


def launch(folder: Path, *, death: int) -> int:
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "kill_run.py"), str(folder), str(death)]
    return subprocess.run(command, env=environment, check=False).returncode


def comparable(result: Any) -> Any:
    """Everything of a result but times and memory."""
    return replace(result, tokens_per_second=0.0, seconds=0.0, peak_bytes=0)


def test_killed_in_the_middle_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    model = TinyLanguageModel()
    whole = train(model, small_corpus(), small_run())
    assert launch(tmp_path, death=17) == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10"]
    other = TinyLanguageModel(seed=1)
    resumed = train(other, small_corpus(), small_run(), folder=tmp_path)
    assert comparable(resumed) == comparable(whole)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_memory_is_resumed_exactly(tmp_path: Path) -> None:
    model = RememberingModel()
    whole = train(model, small_corpus(), small_run())
    interrupted_run(tmp_path, RememberingModel(), at=20)
    other = RememberingModel()
    resumed = train(other, small_corpus(), small_run(), folder=tmp_path)
    assert comparable(resumed) == comparable(whole)
    assert torch.equal(model.head.weight, other.head.weight)


class CrashError(Exception):
    """A crash in the middle of training."""


def interrupted_run(folder: Path, model: nn.Module, *, at: int, **changes: Any) -> None:
    def stop(step: int, validation_loss: float) -> None:
        if step == at:
            raise CrashError

    with pytest.raises(CrashError):
        train(model, small_corpus(), small_run(**changes), folder=folder, on_evaluation=stop)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adagrad", "adafactor"])
def test_every_optimizer_resumes_exactly(tmp_path: Path, optimizer: str) -> None:
    changes = {"optimizer": OptimizerSpec(name=optimizer, learning_rate=0.01), "accumulate": 2}
    whole = train(TinyLanguageModel(), small_corpus(), small_run(**changes))
    interrupted_run(tmp_path, TinyLanguageModel(), at=20, **changes)
    resumed = train(TinyLanguageModel(), small_corpus(), small_run(**changes), folder=tmp_path)
    assert comparable(resumed) == comparable(whole)


def test_a_result_is_kept_with_the_last_checkpoint(tmp_path: Path) -> None:
    whole = train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path)
    told: list[tuple[int, float]] = []
    model = TinyLanguageModel(seed=5)
    again = train(
        model, small_corpus(), small_run(), folder=tmp_path, on_evaluation=lambda step, loss: told.append((step, loss))
    )
    assert comparable(again) == comparable(whole)
    assert told == [(e.step, e.loss) for e in whole.evaluations]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-30"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "run.safetensors", "progress.json"])
def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, file: str) -> None:
    whole = train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path)
    damaged = tmp_path / "checkpoint-30" / file
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=rf"checkpoint-30 is damaged \({file} .* going on from checkpoint-20"):
        resumed = train(TinyLanguageModel(seed=9), small_corpus(), small_run(), folder=tmp_path)
    assert comparable(resumed) == comparable(whole)


def test_one_flipped_byte_is_noticed(tmp_path: Path) -> None:
    train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path)
    for path in checkpoints(tmp_path):
        content = bytearray((path / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not as it was written.*resume=False"):
        train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path)
    train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path, resume=False)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "checkpoint-500"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"format": "something else"}')
    with pytest.raises(CheckpointError, match="not an Attentune training checkpoint"):
        train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path)


def test_other_settings_models_and_texts_are_refused_by_name(tmp_path: Path) -> None:
    train(TinyLanguageModel(), small_corpus(), small_run(steps=10), folder=tmp_path)
    faster = OptimizerSpec(learning_rate=0.02)
    with pytest.raises(TrainingError, match=r"with optimizer.learning_rate=0.01, now 0.02"):
        train(TinyLanguageModel(), small_corpus(), small_run(steps=10, optimizer=faster), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"was trained with other data"):
        train(TinyLanguageModel(), small_corpus(name="text-2"), small_run(steps=10), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"model.class='TinyLanguageModel'"):
        train(RememberingModel(), small_corpus(), small_run(steps=10), folder=tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        train(TinyLanguageModel(width=12), small_corpus(), small_run(steps=10), folder=tmp_path)


def test_moved_files_are_the_same_data(tmp_path: Path) -> None:
    told = {"data": DataSpec(path="there.txt")}
    train(TinyLanguageModel(), small_corpus(), small_run(steps=10, **told), folder=tmp_path)
    told = {"data": DataSpec(path="./here.txt")}
    train(TinyLanguageModel(), small_corpus(), small_run(steps=10, **told), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"data.path='there.txt', now './here.txt'"):
        train(TinyLanguageModel(), small_corpus(name="text-2"), small_run(steps=10, **told), folder=tmp_path)


def test_how_often_checkpoints_are_written_may_change(tmp_path: Path) -> None:
    train(TinyLanguageModel(), small_corpus(), small_run(steps=10), folder=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(TinyLanguageModel(), small_corpus(), small_run(steps=10, checkpoint_every=3), folder=tmp_path)


def test_another_number_of_threads_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(TinyLanguageModel(), small_corpus(), small_run(steps=10), folder=tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 6)
    with pytest.warns(UserWarning, match=rf"threads {threads}, now {threads + 6}: losses may differ"):
        train(TinyLanguageModel(), small_corpus(), small_run(steps=10), folder=tmp_path)


def test_starting_over_removes_the_old_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    result = train(TinyLanguageModel(), small_corpus(), small_run(steps=10, seed=4), folder=tmp_path, resume=False)
    assert len(result.losses) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "notes.txt"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        train(TinyLanguageModel(), small_corpus(), small_run(), folder=tmp_path / "file" / "run")
