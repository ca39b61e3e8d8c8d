"""Suites: small tasks with exact answers that separate what attentions can do, one file a task."""

from __future__ import annotations

import ast
from typing import Any

from attentune.errors import SpecError, near
from attentune.evaluation.suites.copy import Copy
from attentune.evaluation.suites.listops import ListOps
from attentune.evaluation.suites.needle import Needle
from attentune.evaluation.suites.palindrome import Palindrome
from attentune.evaluation.suites.recall import Recall
from attentune.evaluation.suites.suite import Suite

SUITES: dict[str, type[Suite] | type[Needle]] = {
    "recall": Recall,
    "copy": Copy,
    "palindrome": Palindrome,
    "listops": ListOps,
    "needle": Needle,
}

__all__ = ["SUITES", "read_suite"]


def read_suite(text: str) -> Suite | Needle:
    """A suite from its text form: its name, or its name with what is not as published, `recall(pairs=16)`.

    Raises:
        SpecError: an unknown name, or fields that are unknown or break a rule.
    """
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SpecError(f"cannot read suite {text!r}: write a name, or a name with options: recall(pairs=16)") from None
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call is not None else node
    if not isinstance(name, ast.Name) or name.id not in SUITES:
        raise SpecError(f"unknown suite {ast.unparse(name)!r}; {near(ast.unparse(name), SUITES)}")
    options: dict[str, Any] = {}
    if call is not None:
        if call.args:
            raise SpecError(f"suite {text!r}: say which option {ast.unparse(call.args[0])} is, such as pairs=16")
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in options:
                raise SpecError(f"suite {text!r}: option {keyword.arg!r} is given twice")
            options[keyword.arg] = _literal(text, keyword.value)
    return SUITES[name.id](**options)


def _literal(text: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        raise SpecError(f"suite {text!r}: expected a number, true, false or text, got {ast.unparse(node)!r}") from None
    return tuple(value) if isinstance(value, list) else value
