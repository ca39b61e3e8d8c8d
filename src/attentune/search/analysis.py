"""Whether a difference is more than noise, and which trials no other beats on both quality and cost.

The noise band of a gain is the half-width of the 95 % confidence interval of the mean of paired differences
(Student, "The probable error of a mean", Biometrika 1908). Pairs share the seed, and with it the order of the data,
so that what both runs have in common cancels. Folds are no such independent repetitions, see `noise_band`.

All seeds are judged by the same records, however, and a score of few records moves in steps: three seeds may well
differ by the same two records, and Student's interval is then of width 0. The band of a score is therefore never
narrower than what the drawing of those records alone leaves open: see `drawing_band`, and for the least of it, where
next to nothing changed, `records_band`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attentune.errors import StudyError
from attentune.search.result import FEWEST_SEEDS, ArmResult, Cost, Difference, Measure, TrialRecord, Verdict

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959964  # the z with P(|Z| <= z) = 0.95
LOSS = Measure()

MORE_IS_BETTER: frozenset[Cost] = frozenset({"tokens_per_second"})


def t_coverage(t: float, degrees: int) -> float:
    """P(|T| <= t) for Student's t with `degrees` of freedom, by its finite series (Abramowitz & Stegun 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for power in range(2 + degrees % 2, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (power - 1) / power
    if degrees % 2:
        return 2 / math.pi * (angle + sine * total)
    return sine * total


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| <= t) = `confidence`, for a whole number of `degrees` of freedom, at least 1."""
    if degrees < 1 or not 0 < confidence < 1:
        raise ValueError(f"needs degrees >= 1 and 0 < confidence < 1, got {degrees} and {confidence}")
    low, high = 0.0, 1.0
    while t_coverage(high, degrees) < confidence:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        if t_coverage(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return high


def records_band(gain: float, measure: Measure) -> float:
    """The least half-width of the band of `gain`: what the drawing of the n records judged by leaves open at least.

    Of right and wrong answers, a gain of k / n takes at least k records that only the second model answers rightly, and
    none that only the first does. The difference of two such paired shares (McNemar, Psychometrika 1947) has, with half
    a record added to each of the four kinds that there are (Agresti and Min, Statistics in Medicine 2005), the interval

        1.96 sqrt(k + 1 - k^2 / (n + 2)) / (n + 2)

    so that of many records no fewer than five, all in one direction, are a gain.

    This is a minimum. Which records changed is not known here, only by how many more are right: where b are right with
    the second model alone and c with the first alone, k is b - c, but the variance goes with b + c. What they leave
    open is `drawing_band`.

    For scores that grade each answer (F1,
    BLEU, reciprocal rank) k = n gain / best is what that many right answers would be worth. 0 for a loss in nats, a
    mean over tokens so many that it has no steps (`measure.answers` is None).
    """
    if measure.answers is None:
        return 0.0
    total = measure.answers + 2
    changed = min(abs(gain) / measure.best, 1.0) * measure.answers
    return measure.best * NORMAL_QUANTILE * math.sqrt(changed + 1 - changed**2 / total) / total


def drawing_band(before: ArmResult, after: ArmResult, seeds: Sequence[int]) -> float:
    """Half-width of the 95 % confidence interval of the gain over `seeds` by the drawing of the records alone.

    Each arm was scored without each of G parts of the records. With D_g the gain without part g, the mean over the
    seeds, the variance of the gain is (G - 1) / G sum_g (D_g - mean)^2 (the jackknife of Quenouille and Tukey), which
    counts every record that changed, in whichever direction. 0 where that is not known of both.
    """
    if not before.left_out or not after.left_out:
        return 0.0
    first, second = (np.array([one.left_out[one.seeds.index(seed)] for seed in seeds]) for one in (before, after))
    if first.shape != second.shape:
        return 0.0
    gains = (first - second).mean(0)
    parts = len(gains)
    return t_quantile(parts - 1) * math.sqrt((parts - 1) / parts * float(((gains - gains.mean()) ** 2).sum()))


def noise_band(gains: Sequence[float], measure: Measure = LOSS, *, folds: int = 0) -> float | None:
    """Half-width of the 95 % confidence interval of the mean of `gains`; None for fewer than two.

    Student's, or that of the records which `measure` judges by where it is wider.

    With `folds`, each gain is of one of that many parts, held out from training on the others. Any two of these
    trainings share most of their data, so that their gains are alike for that reason as well, and their spread is too
    small. The variance of the mean of J gains is then taken to be (1 / J + held out / trained on) s^2 instead of
    s^2 / J, here with 1 / (folds - 1) of the data trained on held out (the corrected resampled t-test of Nadeau and
    Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003). That makes the band wider by a factor
    of sqrt(1 + J / (folds - 1)).
    """
    count = len(gains)
    if count < 2:
        return None
    deviation = float(np.std(np.asarray(gains, dtype=np.float64), ddof=1))
    shared = 1 / (folds - 1) if folds else 0.0
    student = t_quantile(count - 1) * deviation * math.sqrt(1 / count + shared)
    return max(student, records_band(float(np.mean(gains)), measure))


def judge(gains: Sequence[float], band: float | None) -> Verdict:
    """`gain` or `loss` where the mean lies outside its noise band; `noise` inside it or with fewer than three pairs."""
    if band is None or len(gains) < FEWEST_SEEDS:
        return "noise"
    mean = float(np.mean(gains))
    if abs(mean) <= band:
        return "noise"
    return "gain" if mean > 0 else "loss"


def difference(
    what: str, before: ArmResult, after: ArmResult, *, detail: str = "", measure: Measure = LOSS, folds: int = 0
) -> Difference:
    """What the change from `before` to `after` bought, paired over the seeds that both ran; `measure` is what judges.

    With `folds`, what an arm calls its seeds are the numbers of folds.

    Errors: StudyError when no seed is shared, or when an arm holds a seed twice.
    """
    for arm in (before, after):
        if len(set(arm.seeds)) != len(arm.seeds):
            raise StudyError(f"arm '{arm.name}' holds a seed twice: {', '.join(map(str, arm.seeds))}")
    losses = dict(zip(after.seeds, after.losses, strict=True))
    pairs = [
        (seed, loss - losses[seed]) for seed, loss in zip(before.seeds, before.losses, strict=True) if seed in losses
    ]
    if not pairs:
        raise StudyError(f"arms '{before.name}' and '{after.name}' share no seed, so their losses cannot be paired")
    gains, seeds = tuple(gain for _, gain in pairs), tuple(seed for seed, _ in pairs)
    band = noise_band(gains, measure, folds=folds)
    if band is not None:
        band = max(band, drawing_band(before, after, seeds))
    return Difference(
        what=what,
        detail=detail,
        gain=float(np.mean(gains)),
        band=band,
        gains=gains,
        seeds=seeds,
        verdict=judge(gains, band),
        folds=folds,
    )


def pareto_indices(costs: Sequence[float], losses: Sequence[float]) -> tuple[int, ...]:
    """Indices of the points that no other point beats, by rising cost; smaller is better in both.

    A point is beaten by one that is no worse in both and better in at least one. Equal points are all kept.
    """
    order = sorted(range(len(costs)), key=lambda index: (costs[index], losses[index]))
    front: list[int] = []
    for index in order:
        last = front[-1] if front else None
        if last is None or losses[index] < losses[last] or (costs[index], losses[index]) == (costs[last], losses[last]):
            front.append(index)
    return tuple(front)


def cost_of(trial: TrialRecord, cost: Cost) -> float | None:
    """The `cost` of a trial in its own unit, None where it was not measured."""
    value: float | None = getattr(trial, cost)
    return value


def pareto_front(trials: Sequence[TrialRecord], cost: Cost) -> tuple[TrialRecord, ...]:
    """The complete trials that no other complete trial beats on both loss and `cost`, cheapest first.

    Trials where the cost was not measured are left out. Of `tokens_per_second` more is better: the fastest is first.
    """
    known: list[tuple[float, float, TrialRecord]] = []
    for trial in trials:
        value = cost_of(trial, cost)
        if trial.status == "complete" and trial.loss is not None and value is not None:
            known.append((-value if cost in MORE_IS_BETTER else value, trial.loss, trial))
    chosen = pareto_indices([value for value, _, _ in known], [loss for _, loss, _ in known])
    return tuple(known[index][2] for index in chosen)
