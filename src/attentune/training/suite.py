"""Training small models on a suite, from scratch: settings, learning rates, seeds, and what came out."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attentune.errors import SpecError, TrainingError
from attentune.evaluation.cost import parameter_count
from attentune.evaluation.suites.scoring import SuiteScore
from attentune.evaluation.suites.suite import Recipe, Task, draw
from attentune.models.build import build
from attentune.spec.codec import to_data
from attentune.spec.model import FeedForwardSpec, LayerSpec, ModelSpec
from attentune.spec.run import ClipSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.training.cells import each_in_a_process, keep_cell, kept_cell
from attentune.training.examples import ExampleSource
from attentune.training.loop import train
from attentune.training.result import StopTraining
from attentune.training.start import start_wide

VERSION = 1  # of what a cell means; kept cells of another are trained again
NOTHING = SuiteScore(accuracy=0.0, answers_right=0.0, rows_right=0.0, nats=math.inf, answers=0, rows=0)
CellProgress = Callable[[float, str], None]
"""Told the done share of the work, and a word on its state."""


@dataclass(frozen=True)
class Setting:
    """A model on a task: everything but learning rate and seed."""

    task: Task
    recipe: Recipe
    model: ModelSpec

    @staticmethod
    def of(task: Task, layers: Sequence[LayerSpec], recipe: Recipe | None = None) -> Setting:
        """The small model of `recipe` (the task's own where None) whose layers are the pattern `layers`.

        Raises:
            SpecError: the layers do not fit the recipe's sizes, or look ahead where the rows hold earlier answers.
        """
        recipe = recipe if recipe is not None else task.recipe
        if task.reads_answers:
            for layer in layers:
                if layer.attention is not None and layer.attention.mask.lookahead != 0:
                    raise SpecError(
                        f"suite {task.name} shows earlier answers in the row: mask={layer.attention.mask.kind} would "
                        "see the answer itself; use one that never shows later keys, such as causal"
                    )
        if recipe.batch > recipe.examples:
            raise SpecError(f"a batch of {recipe.batch} rows needs as many examples, got examples={recipe.examples}")
        model = ModelSpec(
            vocab_size=task.vocab_size,
            width=recipe.width,
            depth=recipe.depth,
            context=task.length,
            layers=tuple(layers),
            feed_forward=FeedForwardSpec(name=recipe.feed_forward),
            position=recipe.position,
            tie_embeddings=recipe.start == "small",
            bias=recipe.start == "wide",
        )
        return Setting(task, recipe, model)

    def identity(self) -> dict[str, Any]:
        """All that decides the result, as plain data."""
        fixed = self.recipe.model_dump(mode="json", exclude={"learning_rate"})
        return {"version": VERSION, "task": self.task.identity(), "recipe": fixed, "model": to_data(self.model)}


@dataclass(frozen=True)
class Cell:
    """One training: a setting, a learning rate and a seed, which decides examples, weights and their order."""

    setting: Setting
    learning_rate: float
    seed: int

    def identity(self) -> dict[str, Any]:
        """All that decides the result, as plain data."""
        return {**self.setting.identity(), "learning_rate": self.learning_rate, "seed": self.seed}


@dataclass(frozen=True)
class CellResult:
    """What one training came to.

    - `score`: on the held-out examples, when training ended.
    - `accuracies`: after each epoch; `epochs` were trained. `solved` says whether it ended early for that.
    - `failure`: why it broke off (the score then counts as no right answer); None where it went through.
    """

    learning_rate: float
    seed: int
    score: SuiteScore
    accuracies: tuple[float, ...]
    epochs: int
    solved: bool
    parameters: int
    seconds: float
    failure: str | None = None

    @staticmethod
    def from_data(data: dict[str, Any]) -> CellResult:
        """The value that `asdict` took apart."""
        return CellResult(**{**data, "score": SuiteScore(**data["score"]), "accuracies": tuple(data["accuracies"])})


@dataclass(frozen=True)
class SuiteResult:
    """All cells of a setting, and the learning rate that did best with the first seed and that all seeds share."""

    setting: Setting
    learning_rate: float
    cells: tuple[CellResult, ...]

    @property
    def best(self) -> tuple[CellResult, ...]:
        """The cells at the best learning rate, in the order of the seeds."""
        return tuple(cell for cell in self.cells if cell.learning_rate == self.learning_rate)

    @property
    def accuracy(self) -> float:
        """The mean over seeds at the best learning rate."""
        return statistics.fmean(cell.score.accuracy for cell in self.best)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; nan for a single one."""
        found = [cell.score.accuracy for cell in self.best]
        return statistics.stdev(found) if len(found) > 1 else math.nan

    def groups(self) -> dict[str, float]:
        """The mean accuracy of each group of rows, where the task has groups."""
        scores = [cell.score.groups for cell in self.best]
        names = dict.fromkeys(name for score in scores for name in score)
        return {name: statistics.fmean(score.get(name, 0.0) for score in scores) for name in names}

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "suite": self.setting.task.name,
            "layers": [str(layer) for layer in self.setting.model.layers],
            "depth": self.setting.model.depth,
            "recipe": self.setting.recipe.replace(learning_rate=self.learning_rate).model_dump(mode="json"),
            "parameters": self.cells[0].parameters,
            "learning_rate": self.learning_rate,
            "accuracy": self.accuracy,
            "spread": self.spread if len(self.best) > 1 else None,
            "groups": self.groups(),
            "cells": [asdict(cell) for cell in self.cells],
        }


def train_cell(cell: Cell, *, device: torch.device, progress: CellProgress | None = None) -> CellResult:
    """Trains one model from scratch. Where a loss or gradient is no longer finite, that is its result.

    Raises:
        SpecError: the task has too few different examples.
    """
    begun = time.perf_counter()
    setting, recipe = cell.setting, cell.setting.recipe
    data = ExampleSource(*draw(setting.task, recipe, seed=cell.seed), counts=setting.task.counts)
    per_pass = recipe.examples // recipe.batch
    steps = recipe.epochs * per_pass
    run = RunSpec(
        context=setting.task.length,
        batch=recipe.batch,
        steps=steps,
        optimizer=OptimizerSpec(
            learning_rate=cell.learning_rate, weight_decay=recipe.weight_decay, beta1=0.9, beta2=0.999
        ),
        schedule=ScheduleSpec(name="cosine", warmup=0, floor=0.0),
        clip=ClipSpec(name="none"),
        precision="fp32",
        seed=cell.seed,
        evaluate_every=per_pass,
        diagnose_every=0,
    )
    model = build(setting.model, seed=cell.seed).to(device)
    if recipe.start == "wide":
        start_wide(model, seed=cell.seed)
    scores: list[SuiteScore] = []

    def evaluated(step: int, loss: float) -> None:
        del step, loss
        assert data.score is not None
        scores.append(data.score)
        if data.score.accuracy >= recipe.solved:
            raise StopTraining

    def told(step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        del tokens_per_second
        if progress is not None:
            held = f", accuracy {scores[-1].accuracy:.3f}" if scores else ""
            progress(step / steps, f"loss {loss:.3f}{held}")

    failure = None
    try:
        train(model, data, run, on_evaluation=evaluated, progress=told)
    except TrainingError as error:
        failure = str(error)
    final = scores[-1] if failure is None else NOTHING
    return CellResult(
        learning_rate=cell.learning_rate,
        seed=cell.seed,
        score=final,
        accuracies=tuple(score.accuracy for score in scores),
        epochs=len(scores),
        solved=final.accuracy >= recipe.solved,
        parameters=parameter_count(model),
        seconds=time.perf_counter() - begun,
        failure=failure,
    )


def run_suite(
    setting: Setting,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    learning_rates: Sequence[float] = (),
    folder: Path | None = None,
    jobs: int = 1,
    device: torch.device | str = "cpu",
    plugin: Path | None = None,
    progress: CellProgress | None = None,
) -> SuiteResult:
    """Trains `setting` with every seed at the best of `learning_rates`, which the first seed chooses.

    Args:
        setting: task, recipe and model.
        seeds: each a training of its own.
        learning_rates: to try; empty is the recipe's.
        folder, jobs, device, plugin: as in `train_cells`.
        progress: told how far all cells are.
    """
    rates = tuple(dict.fromkeys(learning_rates)) or (setting.recipe.learning_rate,)
    count = len(rates) + len(seeds) - 1

    def trained(cells: list[Cell], before: int) -> list[CellResult]:
        def told(share: float, note: str) -> None:
            if progress is not None:
                progress((before + share * len(cells)) / count, note)

        return train_cells(cells, folder=folder, jobs=jobs, device=device, plugin=plugin, progress=told)

    if len(rates) == 1:
        return SuiteResult(setting, rates[0], tuple(trained([Cell(setting, rates[0], seed) for seed in seeds], 0)))
    first = trained([Cell(setting, rate, seeds[0]) for rate in rates], 0)
    best = max(first, key=lambda result: (result.score.accuracy, -result.score.nats)).learning_rate
    rest = trained([Cell(setting, best, seed) for seed in seeds[1:]], len(first))
    return SuiteResult(setting, best, (*first, *rest))


def train_cells(
    cells: Sequence[Cell],
    *,
    folder: Path | None = None,
    jobs: int = 1,
    device: torch.device | str = "cpu",
    plugin: Path | None = None,
    progress: CellProgress | None = None,
) -> list[CellResult]:
    """Trains every cell that is not kept in `folder` yet; the results in the order of the cells.

    Args:
        cells: settings, learning rates and seeds.
        folder: where finished cells are kept, so that the same call goes on where it was killed; None keeps none.
        jobs: cells that are trained at a time, each in a process of its own with one thread, if more than 1.
        device: where to train.
        plugin: a file of mechanisms that other processes must load to know the setting.
        progress: told how far all cells are.
    """
    place = torch.device(device)
    found: dict[Cell, CellResult] = {}
    for cell in cells:
        if folder is not None and (kept := kept_cell(folder, cell.identity())) is not None:
            found[cell] = CellResult.from_data(kept)
    left = [cell for cell in cells if cell not in found]

    def told(share: float, note: str) -> None:
        if progress is not None:
            progress((len(found) + share) / len(cells), f"{len(found)}/{len(cells)} trained; {note}")

    def finished(cell: Cell, result: CellResult) -> None:
        found[cell] = result
        if folder is not None:
            keep_cell(folder, cell.identity(), asdict(result))
        told(0.0, f"accuracy {result.score.accuracy:.3f}")

    if jobs > 1 and len(left) > 1:
        work = [(cell, (cell, place)) for cell in left]
        each_in_a_process(_train_alone, work, jobs=jobs, plugin=plugin, finished=finished)
    else:
        for cell in left:
            finished(cell, train_cell(cell, device=place, progress=told))
    return [found[cell] for cell in cells]


def _train_alone(cell: Cell, device: torch.device) -> CellResult:
    """One cell in a process of its own."""
    return train_cell(cell, device=device)
