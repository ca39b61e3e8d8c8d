"""A model of a task as a folder: weights, `config.json` with the model's spec and the task, tokenizers and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attentune.data.records import Record
from attentune.errors import CheckpointError, DataError, SpecError
from attentune.mechanisms import registry
from attentune.models.checkpoint import (
    CARD,
    CONFIG,
    WEIGHTS,
    fill_weights,
    model_folder,
    read_config,
    read_weights,
    write_model,
)
from attentune.models.storage import atomic_folder, settle
from attentune.spec.codec import model_from_data
from attentune.tasks.registry import task_named
from attentune.tasks.task import Fitted, Prediction, Scores

BLOCK = 1024  # records that are predicted together


@dataclass(frozen=True)
class TaskModel:
    """A trained model with its task: what `attentune.load(folder)` gives."""

    model: nn.Module
    fitted: Fitted
    config: Mapping[str, Any]
    folder: Path

    def predict(self, inputs: Sequence[Any]) -> list[Prediction]:
        """What the model says of each input: a mapping by column, or, where the task asks for one column, its value.

        Raises:
            DataError: a column is missing, `input 3` is the third; or `inputs` is one input and no list of them.
        """
        if isinstance(inputs, str | Mapping) or not isinstance(inputs, Iterable):
            raise DataError("predict takes a list of inputs: write predict([...]) for one of them too")
        records = [self._record(one, number) for number, one in enumerate(inputs, start=1)]
        return [answer for block in self.predict_blocks(records) for _, answer in block]

    def predict_blocks(self, records: Iterable[Record], size: int = BLOCK) -> Iterator[list[tuple[Record, Prediction]]]:
        """Records with what the model says of them, `size` at a time: no more than that is held."""
        waiting = iter(records)
        while block := list(islice(waiting, size)):
            answers = self.fitted.predict(self.model, block)
            yield list(zip(block, answers, strict=True))

    def score(self, records: Sequence[Record]) -> Scores:
        """The task's metrics on records that hold the answers."""
        return self.fitted.score(self.fitted.predict(self.model, records), records)

    def _record(self, given: Any, number: int) -> Record:
        asked = self.fitted.task.asked
        if isinstance(given, Record):
            return given
        if not isinstance(given, Mapping):
            if len(asked) != 1:
                raise DataError(f"input {number} needs the columns {', '.join(asked)}: give a mapping")
            given = {asked[0]: given}
        missing = [column for column in asked if column not in given]
        if missing:
            raise DataError(f"input {number} has no column {missing[0]!r}; the task reads {', '.join(asked)}")
        return Record(dict(given), f"input {number}")


def save_task_model(
    folder: str | Path,
    model: nn.Module,
    spec: Any,
    fitted: Fitted,
    *,
    card: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model and its task to `folder`, whole or not at all; what stood there is replaced.

    `card` is the text of README.md, `extra` is plain data that `config.json` keeps beside the spec.

    Raises:
        StorageError: the folder cannot be written.
    """
    target = Path(folder)
    with atomic_folder(target) as new:
        fitted.save(new)
        task = fitted.task.model_dump(mode="json")
        write_model(new, model, spec, {"task": {"kind": task.pop("kind"), "options": task}}, extra)
        if card is not None:
            (new / CARD).write_text(card, encoding="utf-8")
    return target


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> TaskModel:
    """The model in `folder`, or in what `train` or `optimize` left there, with its task, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, damaged, foreign, of a newer version, or holds a language model.
    """
    place = model_folder(Path(folder))
    settle(place)
    config = read_config(place)
    described = config.get("task")
    if not isinstance(described, dict):
        raise CheckpointError(f"{place} holds a language model, not one of a task; see `attentune generate`")
    tensors = read_weights(place, config.get("weights") or {})
    try:
        spec = model_from_data(config.get("model"), registry)
        fitted = task_named(str(described.get("kind"))).load(dict(described.get("options") or {}), place)
        model = fitted.build(spec, seed=0)
    except SpecError as error:
        raise CheckpointError(f"{place / CONFIG} describes no model: {error}") from None
    fill_weights(model, tensors, place / WEIGHTS)
    return TaskModel(model.to(device).eval(), fitted, config, place)
