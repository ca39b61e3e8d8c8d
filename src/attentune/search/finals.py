"""The stage of evaluation: the finalists again, at full length, with paired seeds, on all that was held out.

Three numbers come out of it, each over the same seeds and therefore the same batches:

- **tuning** = loss of the untuned baseline - loss of the tuned baseline: both have the attention of 2017, the first
  with customary settings, the second with the best that its tuning trials found;
- **attention** = loss of the tuned baseline - loss of the winner: each with the settings that suit it, found with the
  same number of trials of the same length, pruned by the same rule;
- **each slot's share** = loss of the winner with that slot as the baseline has it - loss of the winner, in the winner's
  settings.

Of a task the loss is minus its score, so that every gain is one of the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attentune.errors import SpecError, StudyError
from attentune.search.book import Outcome
from attentune.search.calibration import INTERIM_COST, JUDGED_SHARE, LEAST_STEPS, RESERVE_SECONDS, RESERVE_SHARE
from attentune.search.comparison import Finals, compare, decision
from attentune.search.contenders import Contender, Found
from attentune.search.matching import model_spec
from attentune.search.recipe import EVALUATIONS, Recipe
from attentune.search.result import ArmResult, Difference, StageResult
from attentune.search.runner import Job
from attentune.search.runs import Runs
from attentune.search.wording import signed


def evaluation(runs: Runs, found: Found, candidate: Contender | None) -> Finals:
    """Runs the finalists and compares them."""
    spec = runs.spec
    recipes = finalists(runs, found, candidate)
    steps, names = _plan(runs, recipes, found, candidate)
    what = f"{spec.folds} folds" if spec.folds else f"{len(spec.seeds)} paired seeds"
    runs.planned = len(runs.book.outcomes) + len(names) * len(spec.pairs)
    runs.progress.stage_started("evaluation", f"{len(names)} finalists x {what}, {steps} steps each")
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in names}
    twins = {recipes[name]: name for name in reversed(names)}  # an arm without a slot may be another arm
    for pair in spec.pairs:
        subject = runs.subject.fold(spec.folds, pair)
        for name in names:
            twin = twins[recipes[name]]
            if name.startswith("without ") and twin != name:
                outcomes[name][pair] = outcomes[twin][pair]
                continue
            outcomes[name][pair] = runs.trial(
                "finals",
                f"finals/{name}/{pair}",
                "evaluation",
                f"final:{name}",
                recipes[name],
                steps=steps,
                pair=pair,
                subject=subject,
                keep=not name.startswith("without "),
            )
    arms = {name: arm for name in names if (arm := _arm(name, recipes[name], outcomes[name])) is not None}
    for name in ("baseline", "tuned"):
        if name not in arms:
            reason = next(iter(outcomes[name].values())).record.reason
            raise StudyError(f"the {name} finalist could not be trained with any seed: {reason}; choose other settings")
    left_out = [name for name in recipes if name not in arms]
    trained = "winner" in arms
    if not trained:
        arms["winner"] = arms["tuned"].replace(name="winner")
        recipes["winner"] = recipes["tuned"]
    finals = compare(runs, recipes, arms, steps, candidate=trained)
    _tell(runs, finals, left_out=left_out)
    return finals


def finalists(runs: Runs, found: Found, candidate: Contender | None) -> dict[str, Recipe]:
    """The arms by name: baseline, tuned, winner, and the winner with each changed slot switched back."""
    recipes = {"baseline": runs.base, "tuned": found.tuned.recipe}
    if candidate is None:
        return recipes
    recipes["winner"] = candidate.recipe
    for slot in candidate.recipe.changed_slots(runs.base):
        recipe = candidate.recipe.holding(slot, runs.base.value(slot))
        try:
            model_spec(recipe, runs.spec, runs.subject.models)
        except SpecError:  # what remains needs this slot: it has no share of its own
            continue
        recipes[f"without {slot}"] = recipe
    return recipes


def deployed_job(runs: Runs, finals: Finals, name: str) -> Job:
    """The final run of the arm `name` with the first seed that did not break it; its weights were kept."""
    pair = {"baseline": finals.baseline, "tuned": finals.tuned, "winner": finals.winner}[name].seeds[0]
    outcome = runs.book.outcomes[f"finals/{name}/{pair}"]
    return Job(
        stage="evaluation",
        arm=f"final:{name}",
        recipe=finals.recipes[name],
        steps=finals.steps,
        seed=pair,
        label=pair,
        subject=runs.subject.fold(runs.spec.folds, pair),
        folder=runs.trial_folder(outcome.record.number),
    )


def _plan(
    runs: Runs, recipes: dict[str, Recipe], found: Found, candidate: Contender | None
) -> tuple[int, tuple[str, ...]]:
    """Steps of each final run, and the arms that the budget has room for; decided when the finals begin."""

    def decide() -> dict[str, object]:
        spec, pairs = runs.spec, len(runs.spec.pairs)
        names = list(recipes)
        timed = runs.budget.seconds is not None
        speed = runs.calibration() if timed else None

        def cost(name: str, steps: float) -> float:
            """Seconds or tokens of one run."""
            if speed is None:
                return steps * spec.tokens_per_step
            size = runs.subject.whole / spec.folds if spec.folds else runs.subject.size
            slower = _step_seconds(runs, name, found, candidate) / speed.step_seconds
            return (
                slower * (INTERIM_COST * steps * speed.step_seconds + size * speed.judged(EVALUATIONS))
                + speed.trial_seconds
            )

        if runs.budget.seconds is not None:
            left = runs.budget.seconds * (1 - RESERVE_SHARE) - RESERVE_SECONDS - runs.elapsed
        else:
            left = float((runs.budget.tokens or 0) - runs.tokens_used)
        if spec.steps is not None:
            while len(names) > 3 and pairs * sum(cost(name, spec.steps) for name in names) > left:
                names.pop()
            return {"steps": spec.steps, "names": names}
        while len(names) > 3 and pairs * sum(cost(name, 0) for name in names) > JUDGED_SHARE * left:
            names.pop()
        fixed = pairs * sum(cost(name, 0) for name in names)
        each = pairs * sum(cost(name, 1) - cost(name, 0) for name in names)
        return {"steps": runs.at_most(max(LEAST_STEPS, int((left - fixed) / each))), "names": names}

    plan = runs.book.decided("finals", decide)
    return int(plan["steps"]), tuple(plan["names"])


def _step_seconds(runs: Runs, name: str, found: Found, candidate: Contender | None) -> float:
    """Seconds of a training step of an arm, from its search trial; what is left of the winner costs what it costs."""
    record = runs.book.outcomes["tuned baseline/0"].record
    if name == "tuned":
        record = found.tuned.outcome.record
    elif name != "baseline" and candidate is not None:
        record = candidate.outcome.record
    if not record.tokens_per_second:
        return runs.calibration().step_seconds
    return runs.spec.tokens_per_step / record.tokens_per_second


def _arm(name: str, recipe: Recipe, outcomes: dict[int, Outcome]) -> ArmResult | None:
    """The arm over the seeds with which it could be trained; None where there is no such seed."""
    done = {pair: one.record for pair, one in outcomes.items() if one.loss is not None}
    left_out = tuple(outcomes[pair].left_out for pair in done)
    if not done:
        return None
    records = list(done.values())

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    peak = mean([one.peak_bytes for one in records])
    return ArmResult(
        name=name,
        attention=recipe.attention(),
        settings=records[0].settings,
        seeds=tuple(done),
        losses=tuple(float(one.loss) for one in records if one.loss is not None),
        left_out=left_out if all(left_out) else (),
        figures={
            name: tuple(one.figures[name] for one in records) for name in _shared([one.figures for one in records])
        },
        bits_per_character=_every([one.bits_per_character for one in records]),
        bits_per_byte=_every([one.bits_per_byte for one in records]),
        parameters=records[0].parameters,
        latency_ms=mean([one.latency_ms for one in records]),
        tokens_per_second=mean([one.tokens_per_second for one in records]),
        seconds=mean([one.seconds for one in records]),
        peak_bytes=None if peak is None else round(peak),
    )


def _shared(tables: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    return tuple(name for name in tables[0] if all(name in one for one in tables))


def _every(values: Sequence[float | None]) -> tuple[float, ...]:
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()


def _tell(runs: Runs, finals: Finals, left_out: list[str]) -> None:
    def text(found: Difference) -> str:
        band = "" if found.band is None else f" ± {found.band:.4f}"
        return f"{signed(found.gain)}{band} ({found.verdict})"

    records = [record for record in runs.book.records() if record.stage == "evaluation"]
    pairs = f"{len(runs.spec.pairs)} {'folds' if runs.spec.folds else 'paired seeds'}"
    kind = "fold" if runs.spec.folds else "seed"
    count = 2 + finals.candidate + len(finals.ablations)
    attention = f"attention {text(finals.attention)}" if finals.candidate else "no candidate attention was among them"
    summary = (
        f"{count} finalists, {pairs}, {finals.steps} steps each, on all that was held out: "
        f"tuning {text(finals.tuning)}, {attention}."
    )
    if left_out:
        summary += f" Left out for lack of budget or because they failed: {', '.join(left_out)}."
    for arm in (finals.baseline, finals.tuned, *((finals.winner,) if finals.candidate else ()), *finals.ablations):
        broken = [str(pair) for pair in runs.spec.pairs if pair not in arm.seeds]
        if broken:
            summary += (
                f" The {arm.name} model could not be trained with {kind} {', '.join(broken)}, "
                f"so its numbers are of the {len(arm.seeds)} others only."
            )
    result = StageResult(
        name="evaluation",
        summary=summary,
        decision=decision(runs, finals),
        seconds=sum(record.seconds for record in records),
        tokens=sum(record.tokens for record in records),
    )
    runs.book.note("stage evaluation", result.model_dump(mode="json"))
    runs.progress.stage_ended(result)
