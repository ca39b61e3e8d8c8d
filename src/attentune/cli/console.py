"""What the terminal shows: results on stdout; progress, as bars or as occasional plain lines, on stderr."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

PLAIN_INTERVAL = 15.0  # seconds between two lines of one activity where stderr is no terminal


@runtime_checkable
class Report(Protocol):
    """Told how far an activity is: steps done, steps in all (0: unknown), and a word on the current state."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def print_json(value: Any) -> None:
    """Print `value` as one JSON document; numbers that JSON lacks (NaN, infinity) become null."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str))


def known_prompt(text: str) -> list[str]:
    """`--prompt WORD` with the first word of a text that the model's tokenizer knows; nothing where there is none."""
    word = next((word for word in text.split() if not word.startswith("-")), None)
    return [] if word is None else ["--prompt", word]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


@contextmanager
def warnings_after() -> Iterator[None]:
    """Warnings of what is done come when it is done; where it fails, the error alone is told."""
    with warnings.catch_warnings(record=True) as found:
        yield
    for one in found:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)


@contextmanager
def activity(title: str, *, percent: bool = False) -> Iterator[Report]:
    """Show an activity while it lasts: a bar with the time left on a terminal, else a line now and then.

    With `percent` the share that is done is shown, instead of the counts.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(title, percent=percent)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    done = TaskProgressColumn() if percent else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=None, note="")
        yield lambda done, total, note="": bars.update(task, completed=done, total=total or None, note=note)


def _plain_lines(title: str, *, percent: bool) -> Report:
    last = time.monotonic()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            state = f"{done / total:.0%}" if percent and total else f"{done}/{total}" if total else f"{done}"
            print(f"{title}: {state}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    return report
