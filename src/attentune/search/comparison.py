"""What the finals amount to: the gains of tuning, attention and slots, which finalist is shipped, and why.

Shipped is what is better beyond noise at the objective's prices, else what is simpler: the winner where its attention
gained, else the tuned baseline, unless its mean is worse than that of the untuned one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

from attentune.search.analysis import MORE_IS_BETTER, difference
from attentune.search.recipe import Recipe
from attentune.search.result import ArmResult, Difference, tried
from attentune.search.runs import Runs
from attentune.search.wording import gain_text

Deployed = Literal["baseline", "tuned", "winner"]


@dataclass(frozen=True)
class Finals:
    """What the finals found. `deployed` names the arm whose model is shipped.

    Where no candidate was trained in them, `candidate` is False and the winner is the tuned baseline once more.
    """

    steps: int
    recipes: dict[str, Recipe]  # by arm
    baseline: ArmResult
    tuned: ArmResult
    winner: ArmResult
    ablations: tuple[ArmResult, ...]
    tuning: Difference
    attention: Difference
    slots: tuple[Difference, ...]
    deployed: Deployed
    candidate: bool = True


def compare(
    runs: Runs, recipes: dict[str, Recipe], arms: dict[str, ArmResult], steps: int, *, candidate: bool = True
) -> Finals:
    """The gains between the arms, and which of them is shipped."""
    baseline, tuned, winner, measure = arms["baseline"], arms["tuned"], arms["winner"], runs.measure
    base, own = runs.base, recipes["winner"]
    bought = partial(difference, measure=measure, folds=runs.spec.folds)
    tuning = bought("tuning", baseline, tuned, detail=_settings_change(base, recipes["tuned"]))
    tuning = tuning.replace(saved=_saved(runs, baseline, tuned))
    changed = own.changed_slots(base)
    details = {slot: f"{slot}={base.value(slot)} -> {own.value(slot)}" for slot in changed}
    attention = bought("attention", tuned, winner, detail=", ".join(details.values()))
    attention = attention.replace(saved=_saved(runs, tuned, winner))
    ablations = tuple(arm for name, arm in arms.items() if name.startswith("without "))
    slots = tuple(
        bought(slot, arm, winner, detail=details[slot])
        for arm in ablations
        if (slot := arm.name.removeprefix("without ")) in details
    )
    deployed: Deployed = "tuned"
    if candidate and _better_beyond_noise(attention) and _may_replace(runs, winner, tuned):
        deployed = "winner"
    elif tuning.gain + tuning.saved < 0 and _may_replace(runs, baseline, tuned):
        deployed = "baseline"
    return Finals(
        steps=steps,
        recipes=recipes,
        baseline=baseline,
        tuned=tuned,
        winner=winner,
        ablations=ablations,
        tuning=tuning,
        attention=attention,
        slots=slots,
        deployed=deployed,
        candidate=candidate,
    )


def decision(runs: Runs, finals: Finals) -> str:
    """What is shipped, and why: what had no gain, and in what the shipped one is better."""
    if finals.deployed == "winner":
        return f"{_why_the_winner(finals.attention)}: the winner is deployed"
    why = _why_not_the_winner(runs, finals)
    tuned, plain = (runs.measure.text(arm.loss) for arm in (finals.tuned, finals.baseline))
    if finals.deployed == "baseline":
        what = "made it worse" if finals.tuning.verdict == "loss" else "brought no gain beyond noise and a worse mean"
        if finals.tuning.gain >= 0:
            what = "is not worth its cost at the objective's prices"
        return f"{why}, and tuning {what} ({tuned} against {plain}): the untuned baseline is deployed"
    if finals.tuning.verdict == "gain":
        return f"{why}, but tuning gained: the tuned baseline is deployed"
    if finals.tuning.gain >= 0:
        return f"{why}, nor did tuning gain beyond noise: the tuned baseline is deployed, whose mean is no worse"
    if not set(finals.baseline.seeds) >= set(finals.tuned.seeds):
        other = "could not be trained with every seed"
    elif not _within_bounds(runs, finals.baseline):
        other = "breaks a bound of the objective"
    else:
        other = "costs more than it is worth at the objective's prices"
    return f"{why}, and the untuned baseline {other}: the tuned baseline is deployed"


def _why_the_winner(found: Difference) -> str:
    if found.verdict == "gain":
        return "the attention is better beyond noise"
    if found.verdict == "loss":
        return (
            f"at the objective's prices the attention saves {found.saved:.4f}, more than the {abs(found.gain):.4f} ± "
            f"{found.band:.4f} that it loses in quality"
        )
    return (
        f"the attention had no gain in quality beyond noise ({gain_text(found)}), but at the objective's prices it "
        f"saves {found.saved:.4f}"
    )


def _why_not_the_winner(runs: Runs, finals: Finals) -> str:
    if not finals.candidate:
        return f"no candidate attention {'could be trained' if tried(runs.book.records()) else 'was tried'}"
    if not _within_bounds(runs, finals.winner):
        return "the candidate attention breaks a bound of the objective"
    if not set(finals.winner.seeds) >= set(finals.tuned.seeds):
        return "the candidate attention could not be trained with every seed"
    if finals.attention.verdict == "gain":
        return "the candidate attention's gain is not worth its cost at the objective's prices"
    if finals.attention.verdict == "loss":
        return "the candidate attention made it worse"
    return "the candidate attention had no gain beyond noise"


def _better_beyond_noise(found: Difference) -> bool:
    """Whether what changed is better beyond noise once its costs are counted at the objective's prices."""
    return found.enough_seeds and found.band is not None and found.gain + found.saved > found.band


def _saved(runs: Runs, before: ArmResult, after: ArmResult) -> float:
    """What `after` saves of the costs of `before`, at the objective's prices."""
    saved = 0.0
    for cost, price in runs.spec.objective.trade.items():
        old, new = getattr(before, cost, None), getattr(after, cost, None)
        if old and new:
            halvings = math.log2(old / new)
            saved += price * (-halvings if cost in MORE_IS_BETTER else halvings)
    return saved


def _may_replace(runs: Runs, arm: ArmResult, other: ArmResult) -> bool:
    """Whether `arm` keeps the bounds and was trained with every seed of `other`: what broke once may break again."""
    return _within_bounds(runs, arm) and set(arm.seeds) >= set(other.seeds)


def _within_bounds(runs: Runs, arm: ArmResult) -> bool:
    values = ((bound, getattr(arm, bound.cost)) for bound in runs.spec.objective.constraints())
    return all(value is not None and bound.met_by(value) for bound, value in values)


def _settings_change(before: Recipe, after: Recipe) -> str:
    old = before.settings.model_dump() | {"shape": before.shape.words}
    new = after.settings.model_dump() | {"shape": after.shape.words}
    changes = [f"{name} {_short(old[name])} -> {_short(new[name])}" for name in old if old[name] != new[name]]
    return ", ".join(changes) or "the customary settings were the best"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
