"""Tasks by their names: each file of this room that defines a `Task` of the file's own name is one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from inspect import isabstract, isclass

import attentune.tasks
from attentune.errors import SpecError, near
from attentune.spec.text import read_call
from attentune.tasks.task import Task

EXAMPLE = "classify(text=review, label=stars)"


@cache
def known_tasks() -> dict[str, type[Task]]:
    """The tasks that there are, by the names that users type, in alphabetical order."""
    found: dict[str, type[Task]] = {}
    for file in pkgutil.iter_modules(attentune.tasks.__path__):
        if file.name.startswith("_"):
            continue
        module = importlib.import_module(f"{attentune.tasks.__name__}.{file.name}")
        for value in vars(module).values():
            is_task = isclass(value) and issubclass(value, Task) and not isabstract(value)
            if is_task and value.model_fields["kind"].default == file.name:
                found[file.name] = value
    return dict(sorted(found.items()))


def typed(name: str) -> str:
    """The name of a task as users type it: `gap-sentences` for `gap_sentences`."""
    return name.replace("_", "-")


def task_named(name: str) -> type[Task]:
    """The task called `name`. Raises SpecError with near names."""
    if name not in known_tasks():
        raise SpecError(f"unknown task {typed(name)!r}; {near(typed(name), ('lm', *map(typed, known_tasks())))}")
    return known_tasks()[name]


def read_task(text: str) -> Task:
    """A task from its text form, its name with its options: `classify(text=review, label=stars)`.

    In a name `-` stands for `_`: `gap-sentences`.

    Raises:
        SpecError: an unknown name, or options that are missing, unknown or break a rule.
    """
    name, mark, rest = text.partition("(")
    name, options = read_call(f"{name.replace('-', '_')}{mark}{rest}", "task", example=EXAMPLE)
    return task_named(name)(**options)
