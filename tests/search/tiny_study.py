"""A study of seconds for the tests: a model of a few thousand parameters on a few thousand characters.

As a program, `tiny_study.py TEXT FOLDER [COUNT]` runs it, and dies by SIGKILL in training step number COUNT.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from attentune.data.builtin import builtin_text
from attentune.models.decoder import Decoder
from attentune.search.space import ModelSizes, Settings, StudySpec, TuningSpace
from attentune.search.study import optimize
from attentune.spec.run import DataSpec


def write_text(folder: Path) -> Path:
    """Twelve thousand characters of real text."""
    path = folder / "text.txt"
    path.write_text(builtin_text()[:12_000], encoding="utf-8")
    return path


def tiny_spec(text: Path, **changes: object) -> StudySpec:
    """Two candidates, three tuning trials, three seeds, a few steps each."""
    spec = StudySpec(
        data=DataSpec(path=str(text)),
        model=ModelSizes(width=16, depth=1, heads=2),
        context=16,
        batch=4,
        budget="40k-tokens",
        steps=12,
        search_steps=10,
        settings=Settings(learning_rate=2e-3),
        tuning=TuningSpace(trials=3),
        candidates={"scores": ("qk_norm",), "position": ("rotary",)},
        combinations=1,
        margin=0.0,
        search_validation_tokens=512,
    )
    return spec.replace(**changes)


def main(text: str, folder: str, count: str = "") -> None:
    torch.set_num_threads(1)
    left = int(count) if count else None
    forward = Decoder.forward

    def counted(model: Decoder, *arguments: object, **named: object) -> object:
        nonlocal left
        if left is not None and torch.is_grad_enabled():
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return forward(model, *arguments, **named)  # type: ignore[arg-type]

    Decoder.forward = counted  # type: ignore[method-assign, assignment]
    optimize(tiny_spec(Path(text)), out=folder, command="attentune optimize")


if __name__ == "__main__":
    main(*sys.argv[1:])
