"""The stages before the finals: objective, adaptivity, long range, parameters.

**Strategy.** Budgets are small and differences between mechanisms too, so trials are paired: every trial of the search
has the same seed, hence the same batches in the same order, and the same number of steps.

1. *objective*: the baseline's settings are tuned. Its best trial is the first incumbent.
2. *adaptivity* and 3. *long range* go greedily through the slots: each candidate is tried in the place of what the
   incumbent holds, and the best of a slot is kept where it gains more than the margin. In slots that hold several
   values, others that gained are then added. At the end values that came close are tried again on the final
   incumbent, first alone, then in combinations that the sampler draws.
4. *parameters*: the settings of the best candidate are tuned with as many trials as the baseline's were, its trial with
   the tuned baseline's settings among them. In return the baseline is tried with the settings that suit the candidate.

Where no candidate beats the tuned baseline, the best of them is carried on all the same, so that the finals can say
with paired seeds what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable

from attentune.errors import StudyError
from attentune.search.book import Outcome
from attentune.search.calibration import LEAST_STEPS
from attentune.search.candidates import ADAPTIVITY, LONG_RANGE, slot_of
from attentune.search.contenders import Contender, Found, best_of
from attentune.search.obligations import obligatory_seconds
from attentune.search.recipe import Recipe
from attentune.search.result import StageResult, TrialStage, tried
from attentune.search.runs import Runs
from attentune.search.slots import combinations, screen
from attentune.search.strategy import Parameters, given_parameters, tuned, tuning_distributions
from attentune.search.wording import constraint_text, duration_text, short_count


def objective(runs: Runs) -> Found:
    """Says what is minimised, measures the speed, and tunes the baseline."""
    spec = runs.spec
    bounds = ", ".join(constraint_text(bound) for bound in spec.objective.constraints()) or "no bounds"
    runs.progress.measured_by(runs.measure)
    runs.progress.stage_started("objective", f"{runs.measure.goal}, {bounds}; tune the baseline")
    steps = runs.search_steps()
    if not runs.book.outcomes and (short := shortfall(runs)) is not None:
        runs.progress.noticed(short)
    runs.planned = runs.search_runs() + 6 * len(spec.pairs)
    contenders = _tuning(runs, "tuned baseline", "objective", "baseline", runs.base, first=None)
    best = best_of(runs, contenders)
    if best is None:
        reasons = "; ".join(dict.fromkeys(one.outcome.record.reason or "a bound is broken" for one in contenders))
        raise StudyError(
            f"no trial of the baseline met the objective: {reasons}; widen the bounds or change the settings"
        )
    untuned = contenders[0].outcome
    summary = (
        f"{runs.measure.goal.capitalize()}, {bounds}. The baseline was tuned with "
        f"{len(contenders)} trials of {steps} steps: {runs.measure.text(untuned.record.loss)} with its customary "
        f"settings, {runs.measure.text(best.outcome.loss)} at best."
    )
    _over(runs, "objective", summary, _settings_text(best.recipe))
    found = Found(tuned=best, incumbent=best)
    found.tried.update({one.recipe: one.outcome for one in contenders})
    return found


def shortfall(runs: Runs) -> str | None:
    """A sentence where the budget is less than what is done regardless; None where it suffices.

    To be asked once the steps of the search are known.
    """
    spec, arms = runs.spec, 2
    what = f"{spec.budget} is less than {spec.tuning.trials} tuning trials, the finals and the last check need"
    if runs.budget.seconds is not None:
        needed = runs.elapsed + (obligatory_seconds(spec, runs.subject, runs.book) or 0.0)
        enough, expected = needed <= runs.budget.seconds, f"about {duration_text(_rounded(needed))}"
    else:
        assert runs.budget.tokens is not None
        finals = arms * len(spec.pairs) * (spec.steps or LEAST_STEPS)
        tokens = (spec.tuning.trials * runs.search_steps() + finals) * spec.tokens_per_step
        enough, expected = tokens <= runs.budget.tokens, f"about {short_count(tokens)} tokens"
    return None if enough else f"{what}; expect {expected}, and few candidates or none"


def _rounded(seconds: float) -> float:
    """To the next ten seconds, or from ten minutes on to the next minute: an estimate is no better."""
    unit = 10 if seconds < 600 else 60
    return float(-(-seconds // unit) * unit)


def adaptivity(runs: Runs, found: Found) -> None:
    """How scores become weights, slot by slot."""
    runs.progress.stage_started("adaptivity", "candidates for how scores become weights, slot by slot")
    _slots(runs, found, "adaptivity", ADAPTIVITY)


def long_range(runs: Runs, found: Found) -> None:
    """Positions, masks, and what reaches beyond the window; then combinations; then whether the context pays."""
    runs.progress.stage_started("long range", "candidates for position, mask and reach, then combinations")
    _slots(runs, found, "long range", LONG_RANGE, extra=lambda: combinations(runs, found))


def parameters(runs: Runs, found: Found) -> Contender | None:
    """Tunes the best candidate as the baseline was; None where no candidate could be trained at all."""
    candidate = best_candidate(runs, found)
    plan = "tune the best candidate with as many trials as the baseline had" if candidate else "there is no candidate"
    runs.progress.stage_started("parameters", plan)
    if candidate is None:
        what = "Of the candidates none could be trained" if tried(runs.book.records()) else "No candidate was tried"
        _over(runs, "parameters", f"{what}, so there was nothing to tune.", "the tuned baseline stays as it is")
        return None
    contenders = _tuning(runs, "tuned candidate", "parameters", "candidate", candidate.recipe, first=candidate.outcome)
    best = best_of(runs, contenders) or candidate
    returned = found.tuned.recipe.replace(settings=best.recipe.settings, shape=best.recipe.shape)
    if returned not in found.tried:
        outcome = runs.trial(
            "tuned baseline", "tuned baseline/return", "parameters", "baseline", returned, steps=runs.search_steps()
        )
        found.tried[returned] = outcome
        if runs.score(outcome) < runs.score(found.tuned.outcome):
            found.tuned = Contender(returned, outcome)
    shown = runs.measure.text
    summary = (
        f"The best candidate was tuned with {len(contenders)} trials, as the baseline was: "
        f"{shown(candidate.outcome.loss)} before, {shown(best.outcome.loss)} after. The baseline was tried "
        f"with the candidate's settings in return: it stands at {shown(found.tuned.outcome.loss)}."
    )
    _over(runs, "parameters", summary, _settings_text(best.recipe))
    return best


def best_candidate(runs: Runs, found: Found) -> Contender | None:
    """The incumbent if it is no baseline, else the best trial of any other attention."""
    if found.incumbent.recipe.slots != runs.base.slots:
        return found.incumbent
    others = [Contender(recipe, one) for recipe, one in found.tried.items() if recipe.slots != runs.base.slots]
    return best_of(runs, others)


def _tuning(
    runs: Runs, phase: str, stage: TrialStage, arm: str, start: Recipe, *, first: Outcome | None
) -> list[Contender]:
    """`spec.tuning.trials` trials of `start`: itself (`first` where that was run already), given ones, drawn ones."""
    spec, steps = runs.spec, runs.search_steps()
    space, given = tuning_distributions(spec), given_parameters(spec, start)
    rivals = [] if first is None else [first.record]
    if first is None:
        first = runs.trial(phase, f"{phase}/0", stage, arm, start, steps=steps)
    contenders = [Contender(start, first)]
    for index in range(1, spec.tuning.trials):
        drawn: list[Recipe] = []

        def make(number: int, parameters: Parameters, drawn: list[Recipe] = drawn) -> Recipe:
            del number
            drawn.append(tuned(start, spec, parameters))
            return drawn[-1]

        key = f"{phase}/{index}"
        chosen = given[index - 1] if index <= len(given) else None
        outcome = runs.trial(
            phase, key, stage, arm, make, distributions=space, given=chosen, steps=steps, rivals=rivals
        )
        recipe = drawn[-1] if drawn else tuned(start, spec, runs.book.parameters(key))
        contenders.append(Contender(recipe, outcome))
    return contenders


def _slots(
    runs: Runs, found: Found, stage: TrialStage, slots: tuple[str, ...], extra: Callable[[], str] | None = None
) -> None:
    before = found.incumbent
    decisions, skipped = [], 0
    for slot, texts in runs.spec.space(runs.subject.models.stack).items():
        if slot_of(slot) in slots:
            change, left_out = screen(runs, found, stage, slot, texts)
            skipped += left_out
            if change:
                decisions.append(change)
    if extra is not None and (change := extra()):
        decisions.append(change)
    count = sum(1 for one in runs.book.records() if one.stage == stage)
    old, new = (runs.measure.text(one.outcome.loss) for one in (before, found.incumbent))
    summary, kept = screened_text(count, skipped, old, new, runs.spec.margin)
    if stage == "long range":
        summary = f"{summary} {context_text(found)}".strip()
    _over(runs, stage, summary, "; ".join(decisions) or kept)


def screened_text(count: int, skipped: int, before: str, after: str, margin: float) -> tuple[str, str]:
    """What a stage tried, and what it decides where it changed nothing."""
    if not count:
        why = f"the budget left no room for any of {skipped}" if skipped else "the study has none for this stage"
        return f"No candidate was tried: {why}.", "nothing was tried, so nothing changes"
    summary = f"{count} candidate{'s' * (count > 1)}: {before} before, {after} after."
    if skipped:
        summary += f" The budget left no room for {skipped} more."
    return summary, f"no candidate gained more than the margin of {margin:g}, so nothing changes"


def context_text(found: Found) -> str:
    """Whether the context pays: the loss from the start of the context to its end."""
    parts = []
    for name, contender in (("the tuned baseline", found.tuned), ("the incumbent", found.incumbent)):
        losses = contender.outcome.by_position
        if losses and (name == "the tuned baseline" or contender is not found.tuned):
            half = len(losses) // 2
            late = losses[half] - losses[-1]
            parts.append(
                f"for {name} the loss is {losses[0]:.3f} in the first eighth of the context, "
                f"{losses[half]:.3f} after half of it and {losses[-1]:.3f} at its end, so the second half "
                f"is worth {late:+.3f} nats"
            )
    return f"Whether the context pays: {'; '.join(parts)}." if parts else ""


def _settings_text(recipe: Recipe) -> str:
    settings = recipe.settings
    return (
        f"{settings.optimizer}, learning rate {settings.learning_rate:.3g}, {settings.schedule}, "
        f"clipping {settings.clip}, {recipe.shape.words}"
    )


def _over(runs: Runs, stage: TrialStage, summary: str, decision: str) -> None:
    records = [record for record in runs.book.records() if record.stage == stage]
    result = StageResult(
        name=stage,
        summary=summary,
        decision=decision,
        seconds=sum(record.seconds for record in records),
        tokens=sum(record.tokens for record in records),
    )
    runs.book.note(f"stage {stage}", result.model_dump(mode="json"))
    runs.progress.stage_ended(result)
