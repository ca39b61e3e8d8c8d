"""How trials are chosen and which are ended early, on optuna.

**Tuning** (optimizer, learning rate, schedule, warm-up, clipping, precision, shape) uses the tree-structured Parzen
estimator (Bergstra et al., 2011). A fresh sampler is made for every trial, seeded from (study seed, number of the
trial), so that what it proposes depends on the trials before it and on nothing else; a study that was killed goes on as
if it had not been. The first trials are given: the settings that the arm starts from, then the middle of each
optimizer's range of learning rates.

**Pruning** is successive halving (Jamieson and Talwalkar, 2016) without waiting (Li et al., 2020): at about a third and
two thirds of its steps a trial goes on if it is in the better half of all that came so far in its phase, the trial that
it is to beat among them. The candidates of one slot are a phase: a small gain in one slot does not compete with a
large one in another. It is decided from the stored losses alone, so that asking twice gives the same answer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from attentune.search.recipe import EVALUATIONS, Recipe
from attentune.search.result import Scalar
from attentune.search.shape import parse_shape
from attentune.search.space import Settings, StudySpec

REDUCTION = 2  # of the trials that reach a rung, one in so many goes on
RUNGS = (0.3, 0.7)  # shares of a trial's steps
UNPRUNED = 2  # trials that must have reached a rung before it prunes

Parameters = dict[str, Scalar]


def make_sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number` of a study with this `seed`."""
    mixed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=mixed, n_startup_trials=4, multivariate=True, group=True)


@final
class Halving(optuna.pruners.BasePruner):
    """Successive halving over the losses that were reported at the rungs; a pure function of them."""

    def __init__(
        self, steps: int, rivals: Sequence[Mapping[int, float]] = (), *, evaluations: int = EVALUATIONS
    ) -> None:
        """`rivals` are trials of other phases to be measured against: validation loss by step."""
        self.rungs, self.rivals = rung_steps(steps, evaluations), rivals

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether `trial` is not among the better half at the rung that it has just reached."""
        step = trial.last_step
        if step not in self.rungs:
            return False
        own = trial.intermediate_values[step]
        finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        others = [
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False, states=finished)
            if other.number < trial.number and step in other.intermediate_values
        ]
        others += [rival[step] for rival in self.rivals if step in rival]
        if len(others) < UNPRUNED:
            return False
        kept = math.ceil((len(others) + 1) / REDUCTION)
        return sum(loss <= own for loss in others) >= kept


def fixing(sampler: optuna.samplers.BaseSampler, given: Parameters) -> optuna.samplers.BaseSampler:
    """`sampler` with the `given` parameters left out of its hands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.PartialFixedSampler(dict(given), sampler)


def rung_steps(steps: int, evaluations: int = EVALUATIONS) -> tuple[int, ...]:
    """The steps at which a trial of `steps` steps may be ended; they are evaluation steps of a run that has so many."""
    every = max(1, -(-steps // evaluations))
    return tuple(sorted({max(1, round(share * steps / every)) * every for share in RUNGS}))


def tuning_distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """What tuning varies, without what has one choice only."""
    tuning = spec.tuning
    found: dict[str, BaseDistribution] = {}
    choices: dict[str, tuple[Scalar, ...]] = {
        "optimizer": tuning.optimizers,
        "schedule": tuning.schedules,
        "warmup": tuning.warmups,
        "clip": tuning.clips,
        "precision": tuning.precisions,
        "shape": shapes(spec),
    }
    for name, values in choices.items():
        if len(values) > 1:
            found[name] = CategoricalDistribution(values)
    for name in tuning.optimizers:
        low, high = tuning.learning_rates[name]
        found[f"learning_rate_{name}"] = FloatDistribution(low, high, log=True)
    return found


def shapes(spec: StudySpec) -> tuple[str, ...]:
    """The shapes that are tried: the model's own first."""
    return tuple(dict.fromkeys((str(spec.model.shape), *spec.tuning.shapes)))


def given_parameters(spec: StudySpec, start: Recipe) -> tuple[Parameters, ...]:
    """The parameters of the first tuning trials after the one with the settings of `start`."""
    own: Parameters = {"schedule": start.settings.schedule, "clip": start.settings.clip, "shape": str(start.shape)}
    found = []
    for name in spec.tuning.optimizers:
        low, high = spec.tuning.learning_rates[name]
        found.append({**own, "optimizer": name, f"learning_rate_{name}": math.sqrt(low * high)})
    return tuple(found)


def tuned(recipe: Recipe, spec: StudySpec, parameters: Parameters) -> Recipe:
    """`recipe` with the settings and shape that a tuning trial drew; what was not varied has its only choice."""
    tuning = spec.tuning
    optimizer = str(parameters.get("optimizer", tuning.optimizers[0]))
    settings = recipe.settings.model_dump() | {
        "optimizer": optimizer,
        "learning_rate": parameters[f"learning_rate_{optimizer}"],
        "schedule": parameters.get("schedule", tuning.schedules[0]),
        "warmup": parameters.get("warmup", tuning.warmups[0]),
        "clip": parameters.get("clip", tuning.clips[0]),
        "precision": parameters.get("precision", tuning.precisions[0]),
    }
    shape = parse_shape(str(parameters.get("shape", shapes(spec)[0])))
    return recipe.replace(settings=Settings(**settings), shape=shape)
