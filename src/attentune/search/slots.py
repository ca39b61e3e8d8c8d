"""The candidates of one slot on the incumbent, and combinations of slots; see `attentune.search.stages`."""

from __future__ import annotations

import math

from optuna.distributions import CategoricalDistribution

from attentune.search.book import Outcome
from attentune.search.contenders import Contender, Found
from attentune.search.recipe import Recipe, holds_several, joined
from attentune.search.result import TrialRecord, TrialStage
from attentune.search.runs import Runs
from attentune.search.strategy import Parameters
from attentune.search.wording import signed

NEAR = 0.01  # nats per token, or of a score, that a value may lie behind to be tried again in combinations


def screen(runs: Runs, found: Found, stage: TrialStage, slot: str, texts: tuple[str, ...]) -> tuple[str, int]:
    """Tries every candidate of a slot on the incumbent; says what was kept, and how many had no room."""
    start, skipped = found.incumbent, 0
    start_score = runs.score(start.outcome)
    gains: dict[str, float] = {}
    best = start
    for text in texts:
        if text == start.recipe.value(slot):
            continue
        contender = _try(runs, found, stage, slot, start.recipe.holding(slot, text))
        if contender is None:
            skipped += 1
            continue
        gains[text] = start_score - runs.score(contender.outcome)
        if runs.score(contender.outcome) < runs.score(best.outcome) - (runs.spec.margin if best is start else 0):
            best = contender
    if holds_several(slot):
        ranked = sorted(
            (text for text, gain in gains.items() if gain > runs.spec.margin), key=lambda text: -gains[text]
        )
        for text in ranked[1:]:
            recipe = best.recipe.holding(slot, joined(slot, best.recipe.value(slot), text, texts))
            contender = None if recipe == best.recipe else _try(runs, found, stage, slot, recipe)
            if contender is not None and runs.score(contender.outcome) < runs.score(best.outcome) - runs.spec.margin:
                best = contender
    found.incumbent = best
    final = best.recipe.value(slot)
    behind = {text: runs.score(best.outcome) - start_score + gain for text, gain in gains.items() if text != final}
    behind = {text: -gap for text, gap in behind.items() if math.isfinite(gap)}
    if best is not start:
        behind[start.recipe.value(slot)] = start_score - runs.score(best.outcome)
    if behind:
        nearest = min(behind, key=lambda text: behind[text])
        if behind[nearest] <= NEAR:
            found.close[slot] = (nearest, behind[nearest])
    if best is start:
        return "", skipped
    gained = start_score - runs.score(best.outcome)
    return f"{slot}: {start.recipe.value(slot)} -> {final} ({signed(gained)})", skipped


def _try(runs: Runs, found: Found, stage: TrialStage, slot: str, recipe: Recipe) -> Contender | None:
    """One trial of a candidate; None where the budget has no room for it."""
    key = f"screening/{slot}/{recipe.value(slot)}"
    if not runs.has_room(key, later=runs.spec.tuning.trials):
        return None
    steps, rivals = runs.search_steps(), [found.incumbent.outcome.record]
    outcome = runs.trial(f"screening {slot}", key, stage, "candidate", recipe, steps=steps, rivals=rivals)
    found.tried[recipe] = outcome
    return Contender(recipe, outcome)


def combinations(runs: Runs, found: Found) -> str:
    """Values that came close, tried again on the incumbent: first one by one, then as the sampler draws them."""
    start, close = found.incumbent, found.close
    if not close:
        return ""
    space = {slot: CategoricalDistribution((start.recipe.value(slot), other)) for slot, (other, _) in close.items()}
    single = (
        sorted(close, key=lambda slot: close[slot][1]) if len(found.incumbent.recipe.changed_slots(runs.base)) else []
    )
    best = start
    for index in range(runs.spec.combinations):
        key = f"combinations/{index}"
        if not runs.has_room(key, later=runs.spec.tuning.trials):
            break
        given: Parameters | None = None
        if index < len(single):
            given = {slot: start.recipe.value(slot) for slot in close}
            given[single[index]] = close[single[index]][0]
        made: list[Recipe] = []

        def make(number: int, parameters: Parameters, made: list[Recipe] = made) -> Recipe | Outcome:
            recipe = start.recipe
            for slot in close:
                recipe = recipe.holding(slot, str(parameters[slot]))
            made.append(recipe)
            known = found.tried.get(recipe)
            return recipe if known is None else _repeated(number, known.record)

        outcome = runs.trial(
            "combinations",
            key,
            "long range",
            "candidate",
            make,
            distributions=space,
            given=given,
            steps=runs.search_steps(),
            rivals=[start.outcome.record],
        )
        if not made:
            make(outcome.record.number, runs.book.parameters(key))
        found.tried.setdefault(made[-1], outcome)
        if runs.score(outcome) < runs.score(best.outcome) - (runs.spec.margin if best is start else 0):
            best = Contender(made[-1], outcome)
    found.incumbent = best
    if best is start:
        return ""
    slots = best.recipe.changed_slots(start.recipe)
    return "together: " + ", ".join(f"{slot}={best.recipe.value(slot)}" for slot in slots)


def _repeated(number: int, known: TrialRecord) -> Outcome:
    """A drawn combination that was trained before: it is not trained again, and counts once."""
    reason = f"the same as trial {known.number}"
    changes = {"number": number, "stage": "long range", "status": "pruned", "tokens": 0, "seconds": 0.0, "curve": ()}
    return Outcome(known.replace(**changes, reason=reason))
