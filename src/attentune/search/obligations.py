"""What a study does whatever its budget, and how long that takes.

Without the baseline's tuning, the finals with all their seeds and the check of the saved model there is no result that
could be trusted, so a budget too small for them is not kept; the study says so when it begins.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from attentune.search.book import Book
from attentune.search.calibration import INTERIM_COST, LEAST_STEPS, RESERVE_SECONDS, Calibration
from attentune.search.recipe import EVALUATIONS
from attentune.search.result import TrialRecord
from attentune.search.space import StudySpec
from attentune.search.subject import Subject


def obligatory_seconds(spec: StudySpec, subject: Subject, book: Book) -> float | None:
    """What must still be done, in seconds; None where no trial was timed yet."""
    done = book.outcomes
    plan = book.noted("finals")
    each, final = _trial_seconds(spec, subject, book)
    if each is None or final is None:
        return None
    search = 0
    tried = any(key.startswith("screening/") for key in done)
    if plan is None:
        wanted = [f"tuned baseline/{index}" for index in range(spec.tuning.trials)]
        if tried:
            wanted += [f"tuned candidate/{index}" for index in range(1, spec.tuning.trials)]
            wanted.append("tuned baseline/return")
        search = sum(1 for key in wanted if key not in done)
    names = plan["names"] if plan else ("baseline", "tuned", "winner")[: 2 + tried]
    left = sum(1 for name in names for pair in spec.pairs if f"finals/{name}/{pair}" not in done)
    return search * each + left * final + RESERVE_SECONDS


def _trial_seconds(spec: StudySpec, subject: Subject, book: Book) -> tuple[float | None, float | None]:
    """Of a trial of the search and of one of the finals: as measured, else as predicted, where either is known."""
    records = [outcome.record for outcome in book.outcomes.values()]
    search = _mean(record for record in records if record.stage != "evaluation")
    final = _mean(record for record in records if record.stage == "evaluation")
    steps, held = int(book.noted("search steps", 0)), book.noted("calibration")
    plan = book.noted("finals")
    last = int(plan["steps"]) if plan else spec.steps or LEAST_STEPS
    if held is None:
        if search is not None and final is None:
            final = search * max(1.0, last / max(steps, 1))
        return search, final
    speed = Calibration(**held)
    expected = _predicted(speed, steps, subject.search_evaluations, int(book.noted("search size", 0)))
    if final is None:
        size = subject.whole / spec.folds if spec.folds else subject.size
        final = _predicted(speed, last, EVALUATIONS, size) * (1.0 if search is None else search / expected)
    return expected if search is None else search, final


def _predicted(speed: Calibration, steps: int, evaluations: int, size: float) -> float:
    return speed.trial_seconds + INTERIM_COST * steps * speed.step_seconds + speed.judged(evaluations) * size


def _mean(records: Iterable[TrialRecord]) -> float | None:
    """Seconds of those that ran to their end."""
    seconds = [record.seconds for record in records if record.status == "complete"]
    return float(np.mean(seconds)) if seconds else None
