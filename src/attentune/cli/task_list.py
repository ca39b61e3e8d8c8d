"""The tasks as data, and as text to read."""

from __future__ import annotations

import textwrap
import typing
from typing import Any

from pydantic_core import PydanticUndefined

from attentune.tasks.registry import known_tasks, typed
from attentune.tasks.task import Task

WIDTH = 110  # letters a line
INDENT = "    "


def described() -> list[dict[str, Any]]:
    """Each task: its name, what it does, the stack it stands on, its options."""
    language = {
        "name": "lm",
        "summary": "A language model of plain text, the same as without --task; `text` is the column of a table.",
        "stack": "decoder",
        "options": {"text": {"default": None, "choices": []}},
    }
    tasks = [
        {
            "name": typed(name),
            "summary": _summary(task),
            "stack": task.stack,
            "options": {
                field: {"default": None if one.is_required() else one.default, "choices": _choices(one.annotation)}
                for field, one in task.model_fields.items()
                if field != "kind" and (one.is_required() or one.default is not PydanticUndefined)
            },
        }
        for name, task in known_tasks().items()
    ]
    return sorted([language, *tasks], key=lambda one: str(one["name"]))


def shown(found: list[dict[str, Any]]) -> str:
    """The same as text."""
    lines = []
    for task in found:
        lines.append(f"{task['name']}  ({task['stack']})")
        lines += textwrap.wrap(task["summary"], WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
        for name, option in task["options"].items():
            choices = f"  one of {', '.join(map(str, option['choices']))}" if option["choices"] else ""
            lines.append(f"{INDENT}{name} = {option['default']!r}{choices}")
        lines.append("")
    return "\n".join(lines)


def _summary(task: type[Task]) -> str:
    """What a task says of itself, and what it has in common with others."""
    kinds = [kind for kind in task.__mro__ if issubclass(kind, Task) and kind is not Task]
    return " ".join(" ".join((kind.__doc__ or "").split()) for kind in kinds)


def _choices(annotation: Any) -> list[Any]:
    return list(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else []
