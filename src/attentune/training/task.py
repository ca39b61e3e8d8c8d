"""Training a task from its records to its figures: what `attentune train --task` does for each seed."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.data.shape import TableShape
from attentune.data.splits import duplicates, without
from attentune.data.streams import Progress as Reading
from attentune.errors import DataError
from attentune.evaluation.task_report import Figure
from attentune.layers.low_rank import merge_adapters
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec, RunSpec
from attentune.tasks.reading import drawn_apart, read
from attentune.tasks.task import Fitted, Scores, Task
from attentune.training.loop import train
from attentune.training.reporting import Progress
from attentune.training.result import TrainResult
from attentune.training.task_source import Measured, TaskSource
from attentune.training.trackers import Tracker

NAMED = 3  # labels that a warning names


@dataclass(frozen=True)
class Parts:
    """The records of a task. `test` may be empty: then the validation records alone are scored."""

    train: Sequence[Record]
    validation: Sequence[Record]
    test: Sequence[Record] = ()

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            if not getattr(self, name):
                raise DataError(f"there are no records to {'train on' if name == 'train' else 'choose the best by'}")


@dataclass(frozen=True)
class Counts:
    """How many records each part has, and how many stand in two of them."""

    train: int
    validation: int
    test: int
    duplicates: Mapping[str, int]  # by part, those that also stand among the training records
    dropped: bool  # whether these were left out of the training records

    def text(self) -> str:
        """`8,000 train, 1,000 validation; 3 of validation also in train`."""
        counts = {"train": self.train, "validation": self.validation, "test": self.test}
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        what = "left out of train" if self.dropped else "also in train"
        return text + "".join(f"; {number:,} of {name} {what}" for name, number in self.duplicates.items())


def read_parts(
    task: Task,
    data: DataSpec,
    *,
    validation_path: str | None,
    test_path: str | None,
    drop_duplicates: bool,
    folds: bool = False,
    progress: Reading | None = None,
) -> tuple[Parts, Counts]:
    """The records of each part; without a file of their own, those to validate by are drawn from the training records.

    With `folds` the validation records will be trained on too, so that test records must not stand among them either.

    Raises:
        DataError: a file cannot be read, with its line; or `data` names none, or a share to draw beside a file.
    """
    if data.path is None:
        raise DataError("a task needs records: name their file with --data")
    if validation_path is not None and data.validation != DataSpec.model_fields["validation"].default:
        raise DataError(
            f"data.validation={data.validation:g} would be drawn from the training records, but those to validate by "
            f"are of {validation_path}; say one of both"
        )
    train = read(task, data.path, data, progress=progress)
    like = TableShape.of(train[0], task.columns)
    test = [] if test_path is None else read(task, test_path, data, like=like, progress=progress)
    if validation_path is not None:
        validation = read(task, validation_path, data, like=like, progress=progress)
    else:
        train, validation = drawn_apart(task, train, data.validation)
    _warn_of_unmeasured(task, train, validation)
    learned = {"validation": train, "test": [*train, *validation] if folds else train}
    found = {
        name: duplicates(learned[name], others, task.asked, names=("training", name), warn=not drop_duplicates)
        for name, others in (("validation", validation), ("test", test))
    }
    twice = {name: len(one.test) for name, one in found.items() if one.test}
    if drop_duplicates:
        dropped, count = {place for one in found.values() for place in one.train}, len(train)
        train = without(train, dropped)
        validation = without(validation, {place - count for place in dropped if place >= count})
    return Parts(train, validation, test), Counts(len(train), len(validation), len(test), twice, drop_duplicates)


def _warn_of_unmeasured(task: Task, train: Sequence[Record], validation: Sequence[Record]) -> None:
    """Counts the labels that are learned, while no validation record tells how well."""
    if task.drawn_by is None:
        return
    learned, measured = ({one.label(task.drawn_by) for one in part} for part in (train, validation))
    if missing := sorted(learned - measured):
        named = ", ".join(map(repr, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
        warnings.warn(
            f"{len(missing)} of {len(learned)} labels stand in no validation record, so that nothing tells how well "
            f"they are learned: {named}",
            DataWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class TaskRun:
    """One seed: the model with the weights that did best on the validation records, and what they score."""

    seed: int
    model: nn.Module
    result: TrainResult
    curve: tuple[Measured, ...]
    best: Measured
    validation: Scores
    test: Scores | None


def train_task(
    fitted: Fitted,
    source: TaskSource,
    parts: Parts,
    spec: ModelSpec,
    run: RunSpec,
    *,
    device: torch.device,
    folder: Path | None = None,
    resume: bool = True,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> TaskRun:
    """Trains a model of `spec` from scratch with `run.seed`, takes its best weights, and scores them.

    Args:
        fitted: the task with its tokenizers and labels.
        source: the examples of `parts`.
        parts: the records.
        spec: as `fitted.complete` gives it.
        run: every number of the training.
        device: where to train.
        folder: of the checkpoints; the same call goes on from the last of them.
        resume: False starts over.
        trackers: told the numbers as they come.
        progress: see `Progress`.
        prepare: called with the fresh model, such as a `Beginning`, which fills in weights from elsewhere.

    Raises:
        TrainingError, CheckpointError, StorageError: as `train`.
    """
    model = fitted.build(spec, seed=run.seed)
    if prepare is not None:
        prepare(model)
    model.to(device)
    result = train(model, source, run, folder=folder, resume=resume, trackers=trackers, progress=progress)
    best = source.take_best(model)
    assert best is not None  # training ends with a measurement
    merge_adapters(model)
    return TaskRun(
        seed=run.seed,
        model=model,
        result=result,
        curve=tuple(source.curve),
        best=best,
        validation=fitted.score(fitted.predict(model, parts.validation), parts.validation),
        test=fitted.score(fitted.predict(model, parts.test), parts.test) if parts.test else None,
    )


def over_seeds(scores: Sequence[Scores]) -> dict[str, Figure]:
    """Each figure over several seeds, with its standard deviation."""
    found = {}
    for name in scores[0].values if scores else ():
        each = tuple(one.values[name] for one in scores if name in one.values)
        found[name] = Figure(statistics.fmean(each), statistics.stdev(each) if len(each) > 1 else None, each)
    return found
