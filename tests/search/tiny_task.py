"""Studies of tasks for the tests, of seconds each.

As a program, `tiny_task.py RECORDS FOLDER [COUNT]` runs that of labels, and dies by SIGKILL in training step number
COUNT.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from attentune.search.space import ModelSizes, Settings, StudySpec, TuningSpace
from attentune.search.study import optimize
from attentune.spec.run import DataSpec
from attentune.tasks.heads import Headed
from tasks.opinions import opinions, write


def write_records(folder: Path) -> Path:
    """A hundred opinions."""
    return write(folder / "opinions.csv", opinions(100, 0))


def tiny_task(records: Path, **changes: object) -> StudySpec:
    """One candidate a stage, two tuning trials, three seeds, a few steps each."""
    spec = StudySpec(
        task="classify(metric=macro_f1)",
        data=DataSpec(path=str(records), tokenizer="word", vocab_size=300, validation=0.3),
        model=ModelSizes(width=8, depth=1, heads=2),
        context=16,
        batch=4,
        budget="30k-tokens",
        steps=10,
        search_steps=8,
        settings=Settings(learning_rate=5e-3),
        tuning=TuningSpace(trials=2),
        candidates={"scores": ("qk_norm",), "position": ("rotary",)},
        combinations=0,
        margin=0.0,
    )
    return spec.replace(**changes)


def main(records: str, folder: str, count: str = "") -> None:
    torch.set_num_threads(1)
    left = int(count) if count else None
    shown = Headed.shown

    def counted(model: Headed, ids: torch.Tensor) -> torch.Tensor:
        nonlocal left
        if left is not None and torch.is_grad_enabled():
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return shown(model, ids)

    Headed.shown = counted  # type: ignore[method-assign]
    optimize(tiny_task(Path(records)), out=folder, command="attentune optimize")


if __name__ == "__main__":
    main(*sys.argv[1:])
