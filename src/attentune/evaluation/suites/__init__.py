"""Suites: small tasks with exact answers that separate what attentions can do, one file a task."""

from __future__ import annotations

from attentune.errors import SpecError, near
from attentune.evaluation.suites.copy import Copy
from attentune.evaluation.suites.listops import ListOps
from attentune.evaluation.suites.needle import Needle
from attentune.evaluation.suites.palindrome import Palindrome
from attentune.evaluation.suites.recall import Recall
from attentune.evaluation.suites.suite import Suite
from attentune.spec.text import read_call

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
    name, options = read_call(text, "suite", example="recall(pairs=16)")
    if name not in SUITES:
        raise SpecError(f"unknown suite {name!r}; {near(name, SUITES)}")
    return SUITES[name](**options)
