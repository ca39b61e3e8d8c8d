"""What all stages of a study share: its spec, text and book, the clock and the budget, and how a trial is run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution

from attentune.search.analysis import cost_of
from attentune.search.book import Book, Outcome, Reporter
from attentune.search.calibration import (
    CALIBRATION_STEPS,
    FEWEST_JUDGED,
    INTERIM_COST,
    JUDGED_SHARE,
    LEAST_STEPS,
    MIXTURE,
    UNPRUNED_SHARE,
    Calibration,
)
from attentune.search.matching import model_spec
from attentune.search.obligations import obligatory_seconds
from attentune.search.progress import StudyProgress
from attentune.search.recipe import EVALUATIONS, Recipe, baseline_recipe, run_spec
from attentune.search.result import Cost, Measure, TrialRecord, TrialStage
from attentune.search.runner import Job, run_trial
from attentune.search.space import SEARCH_SEED, StudySpec, parse_budget
from attentune.search.strategy import Parameters
from attentune.search.subject import Subject


class Runs:
    """A study under way."""

    def __init__(self, spec: StudySpec, subject: Subject, book: Book, progress: StudyProgress, *, device: str) -> None:
        self.spec, self.subject, self.book, self.progress, self.device = spec, subject, book, progress, device
        self.budget = parse_budget(spec.budget)
        self.base = baseline_recipe(spec, subject.models.stack)
        self._searched: Subject | None = None
        self.planned = 0
        self._earlier = float(book.noted("elapsed", 0.0))
        self._begun = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds that the study has taken, over all the times that it was started."""
        return self._earlier + time.perf_counter() - self._begun

    @property
    def measure(self) -> Measure:
        """What is judged by."""
        return self.subject.measure

    @property
    def searched(self) -> Subject:
        """What the trials of the search are judged by; known once `search_steps` is."""
        if self._searched is None:
            self.search_steps()
            self._searched = self.subject.searched(int(self.book.noted("search size")))
        return self._searched

    @property
    def tokens_used(self) -> int:
        """Training tokens of all trials so far."""
        return sum(outcome.record.tokens for outcome in self.book.outcomes.values())

    @property
    def search_seed(self) -> int:
        return SEARCH_SEED + self.spec.seed

    def trial(
        self,
        phase: str,
        key: str,
        stage: TrialStage,
        arm: str,
        make: Recipe | Any,
        *,
        steps: int,
        distributions: Mapping[str, BaseDistribution] | None = None,
        given: Parameters | None = None,
        pair: int | None = None,
        subject: Subject | None = None,
        keep: bool = False,
        rivals: Sequence[TrialRecord] = (),
    ) -> Outcome:
        """Runs one trial, or finds it in the book.

        `make` is a recipe, or a function from the drawn parameters to one or to an `Outcome` that needs no training.
        `pair` is the seed or fold of a final; a search trial has the seed of the search.
        """
        new = key not in self.book.outcomes
        evaluations = self.subject.search_evaluations if pair is None else EVALUATIONS

        def run(number: int, parameters: Parameters, report: Reporter) -> Outcome:
            made = make if isinstance(make, Recipe) else make(number, parameters)
            if isinstance(made, Outcome):
                return made
            self.progress.trial_started(
                number, arm, _shown(made), done=len(self.book.outcomes), planned=max(self.planned, number + 1)
            )
            job = Job(
                stage=stage,
                arm=arm,
                recipe=made,
                steps=steps,
                seed=self.search_seed if pair is None else pair,
                label=self.search_seed if pair is None else pair,
                subject=subject or self.searched,
                folder=self.trial_folder(number),
                evaluations=evaluations,
            )
            return run_trial(
                job, self.spec, number=number, report=report, device=self.device, trained=self.progress.trained
            )

        outcome = self.book.trial(
            phase,
            key,
            run,
            distributions=distributions,
            given=given,
            steps=steps,
            evaluations=evaluations,
            rivals=rivals,
            prunes=stage != "evaluation",
        )
        if not keep:
            shutil.rmtree(self.trial_folder(outcome.record.number), ignore_errors=True)
        if new:
            self.book.note("elapsed", self.elapsed)
        best = min(
            (o.record for o in self.book.outcomes.values() if o.record.stage == stage and o.loss is not None),
            key=lambda record: (record.loss, record.number),
            default=None,
        )
        self.progress.trial_ended(outcome.record, best=best, seconds_left=self.seconds_left())
        return outcome

    def trial_folder(self, number: int) -> Path:
        """Where the checkpoints of a trial are."""
        return self.book.folder / "trials" / f"{number:04d}"

    def score(self, outcome: Outcome) -> float:
        """What the objective makes of a trial, lower is better; inf where it is out of the question."""
        record = outcome.record
        if outcome.loss is None:
            return math.inf
        for bound in self.spec.objective.constraints():
            value = cost_of(record, bound.cost)
            if value is None or not bound.met_by(value):
                return math.inf
        total = outcome.loss
        for cost, price in self.spec.objective.trade.items():
            total += price * self._doublings(record, cost)
        return total

    def _doublings(self, record: TrialRecord, cost: Cost) -> float:
        """How often the cost of the baseline was doubled."""
        base = self.book.outcomes.get("tuned baseline/0")
        if base is None:
            return 0.0
        own, plain = cost_of(record, cost), cost_of(base.record, cost)
        if not own or not plain:
            return 0.0
        return math.log2(plain / own if cost == "tokens_per_second" else own / plain)

    def calibration(self) -> Calibration:
        """Measured once; afterwards everything is counted in steps."""

        def measure() -> dict[str, float]:
            models = self.subject.models
            model = models.build(model_spec(self.base, self.spec, models), seed=0).to(self.device)
            run = run_spec(self.base, self.spec, steps=CALIBRATION_STEPS, seed=0)
            quick = run.replace(evaluate_every=CALIBRATION_STEPS, checkpoint_every=10 * CALIBRATION_STEPS)
            found = self.subject.timed(model, quick)
            return {
                "step_seconds": found.step,
                "evaluation_seconds": found.evaluation,
                "judging_seconds": found.judging,
                "trial_seconds": 0.2 + 12 * found.step,
            }

        return Calibration(**self.book.decided("calibration", measure))

    def search_runs(self) -> int:
        """About how many trials come before the finals."""
        spec = self.spec
        candidates = sum(len(texts) for texts in spec.space(self.subject.models.stack).values())
        return 2 * spec.tuning.trials + 1 + candidates + 2 + spec.combinations

    def search_steps(self) -> int:
        """Steps of a search trial: as asked for, or what the budget's search share allows; decided once."""

        def decide() -> int:
            size = self.subject.search_size(self.spec.search_validation_tokens)
            steps = self.spec.search_steps
            share, runs = self.spec.search_share, self.search_runs()
            if self.budget.tokens is not None:
                self.book.note("search size", size)
                steps = steps or max(LEAST_STEPS, int(share * self.budget.tokens / runs / self.spec.tokens_per_step))
                return self.at_most(steps)
            if steps is not None:
                self.book.note("search size", size)
                return self.at_most(steps)
            speed = self.calibration()
            assert self.budget.seconds is not None
            each = (share * self.budget.seconds - self.elapsed) / runs / MIXTURE
            judged = speed.judged(self.subject.search_evaluations)
            size = max(min(size, FEWEST_JUDGED), min(size, int(JUDGED_SHARE * each / max(judged, 1e-9))))
            self.book.note("search size", size)
            each -= speed.trial_seconds + judged * size
            return self.at_most(max(LEAST_STEPS, int(each / (INTERIM_COST * speed.step_seconds) / UNPRUNED_SHARE)))

        return int(self.book.decided("search steps", decide))

    def at_most(self, steps: int) -> int:
        """`steps`, or as many as do not repeat the data too often."""
        most = self.subject.most_steps(run_spec(self.base, self.spec, steps=steps, seed=0))
        return steps if most is None else min(steps, most)

    def has_room(self, key: str, *, later: int) -> bool:
        """Whether the search may still afford the trial `key` when `later` trials must follow; decided once."""

        def decide() -> bool:
            done = [outcome.record for outcome in self.book.outcomes.values() if outcome.record.tokens]
            used = self.elapsed if self.budget.seconds is not None else self.tokens_used
            if self.budget.seconds is not None:
                each = float(np.mean([record.seconds for record in done])) if done else 0.0
            else:
                each = self.search_steps() * self.spec.tokens_per_step
            return used + (later + 1) * each <= self._search_limit()

        return key in self.book.outcomes or bool(self.book.decided(f"room for {key}", decide))

    def _search_limit(self) -> float:
        """Seconds or tokens that the search may use; where the finals' steps are given, all but what these need."""
        spec = self.spec
        whole = self.budget.seconds if self.budget.seconds is not None else self.budget.tokens
        assert whole is not None
        if spec.steps is None:
            return 1.05 * spec.search_share * whole
        each = float(spec.steps)
        each *= self.calibration().step_seconds if self.budget.seconds is not None else spec.tokens_per_step
        return max(spec.search_share * whole, whole - 3.5 * len(spec.pairs) * each)

    def seconds_left(self) -> float | None:
        """An estimate for the whole study: the rest of the budget, or of what is done regardless where that is more."""
        least = obligatory_seconds(self.spec, self.subject, self.book)
        if self.budget.seconds is not None:
            rest = self.budget.seconds - self.elapsed
        elif self.budget.tokens is not None and self.tokens_used:
            rest = (self.budget.tokens - self.tokens_used) * self.elapsed / self.tokens_used
        else:
            return least
        return max(rest, least or 0.0, 0.0)


def pick_device() -> str:
    """CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _shown(recipe: Recipe) -> dict[str, Any]:
    try:
        return dict(recipe.flat())
    except ValueError:  # a SpecError: the trial will say so itself
        return dict(recipe.slots)
