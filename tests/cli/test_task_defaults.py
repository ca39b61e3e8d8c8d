"""What is left unsaid: a task has its own tokenizer and context, in training and in a study alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attentune.cli import optimize, train
from attentune.cli.parsing import parse


@pytest.mark.parametrize("command", [train, optimize])
@pytest.mark.parametrize(
    ("line", "file", "expected"),
    [
        ("--task classify", "", ("bpe", 128)),
        ("--task=classify(text=a)", "", ("bpe", 128)),
        ("--task classify --data.tokenizer char --context 32", "", ("char", 32)),
        ("--task classify --data some.csv", "context = 48", ("bpe", 48)),
        ("", 'task = "tag"\n[data]\ntokenizer = "word"', ("word", 128)),
        ("--task tag --data.tokenizer-from folder", "", ("char", 128)),
        ("--task lm", "", ("char", 64)),
        ("--task lm(text=a)", 'task = "classify"', ("char", 64)),
        ("", "batch = 8", ("char", 64)),
    ],
)
def test_a_task_has_defaults_of_its_own(
    tmp_path: Path, command: Any, line: str, file: str, expected: tuple[str, int]
) -> None:
    arguments = line.split()
    if file:
        (tmp_path / "a.toml").write_text(file, encoding="utf-8")
        arguments += ["--config", str(tmp_path / "a.toml")]
    options = parse(command.Options, arguments, command="x", examples="")
    assert (options.data.tokenizer, options.context) == expected


def test_a_model_that_is_gone_on_from_brings_its_tokenizer() -> None:
    options = parse(train.Options, ["--task", "tag", "--from", "folder"], command="train", examples="")
    assert (options.data.tokenizer, options.context) == ("char", 128)  # as unsaid: nothing to warn of
