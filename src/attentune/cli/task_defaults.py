"""What is left unsaid where a task is named: its records are read in pieces of words, and two sentences of them or so.

A language model of letters needs no tokenizer and shows its worth in 64 of them; 64 letters of a record are its first
dozen words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attentune.cli.words import value_of

TOKENIZER: Final = "bpe"
CONTEXT: Final = 128  # tokens
LANGUAGE: Final = "lm"  # the task that is a language model


def is_language(task: str) -> bool:
    """Whether `lm` or `lm(text=COLUMN)` is asked for."""
    return task.strip().partition("(")[0].strip() == LANGUAGE


def with_task_defaults(table: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The `table` of a file, with what a task wants and neither it nor the `arguments`, which follow it, say.

    A model that training starts from brings a tokenizer of its own.
    """
    task = value_of("--task", arguments) or table.get("task")
    if not isinstance(task, str) or is_language(task):
        return dict(table)
    found = {"context": CONTEXT, **table}
    data, start = table.get("data", {}), table.get("start", {})
    begun = value_of("--start.path", arguments) or (isinstance(start, dict) and start.get("path"))
    adopted = value_of("--data.tokenizer-from", arguments) or value_of("--data.tokenizer_from", arguments)
    if isinstance(data, dict) and not begun and not adopted and not data.get("tokenizer_from"):
        found["data"] = {"tokenizer": TOKENIZER, **data}
    return found
