"""What the search stages hand on: recipes with their trials, and the best so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from attentune.search.book import Outcome
from attentune.search.recipe import Recipe
from attentune.search.runs import Runs


@dataclass(frozen=True)
class Contender:
    """A recipe with its trial."""

    recipe: Recipe
    outcome: Outcome


@dataclass
class Found:
    """What the search has found so far."""

    tuned: Contender  # the baseline at its best
    incumbent: Contender  # the best of all, which may be the tuned baseline
    tried: dict[Recipe, Outcome] = field(default_factory=dict)
    close: dict[str, tuple[str, float]] = field(default_factory=dict)  # slot -> (another value, how far behind)


def best_of(runs: Runs, contenders: list[Contender]) -> Contender | None:
    """The one that the objective likes best; None where none keeps the bounds."""
    possible = [one for one in contenders if math.isfinite(runs.score(one.outcome))]
    return min(possible, key=lambda one: (runs.score(one.outcome), one.outcome.record.number), default=None)
