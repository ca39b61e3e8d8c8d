"""Training on the records of a task: batches of like length for the loop, and what the held-out records say."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.bucketing import Buckets
from attentune.data.records import Record
from attentune.errors import DataError
from attentune.evaluation.language import LanguageScore
from attentune.models.checkpoint import weights_of
from attentune.spec.run import RunSpec
from attentune.tasks.task import Example, Fitted, Searching
from attentune.training.feed import Feed, StepData
from attentune.training.state import load_tensors

EVALUATE_EVERY = RunSpec.model_fields["evaluate_every"].default
CHECKPOINT_EVERY = RunSpec.model_fields["checkpoint_every"].default


@dataclass(frozen=True)
class Measured:
    """What the validation records said after `step` steps: the loss in nats, the task's figures where it has them.

    `value` is what the best weights are chosen by: higher is better.
    """

    step: int
    loss: float
    value: float
    scores: dict[str, float]


@final
class TaskSource:
    """`train` in batches of `run.batch` x `run.context` tokens, measured on `validation`.

    A step's rows are of like length, as many as the tokens allow; all are seen once in a pass. The weights that did
    best on the validation records are kept, in checkpoints too: `take_best` puts them into the model.
    """

    def __init__(self, fitted: Fitted, train: Sequence[Record], validation: Sequence[Record]) -> None:
        if not train or not validation:
            raise DataError("a task needs records to train on and records to be measured by")
        self.fitted = fitted
        fitted.widen(validation)
        self.train, self.validation = (
            [example for one in part for example in fitted.examples(one)] for part in (train, validation)
        )
        for name, examples in (("train on", self.train), ("measure by", self.validation)):
            if not examples:
                raise DataError(f"the records to {name} hold nothing that a model could learn from")
        self.curve: list[Measured] = []
        self.best: Measured | None = None
        self._best_weights: dict[str, Tensor] = {}
        self._latest: list[dict[str, Tensor]] = []  # at the last evaluations: what the next is averaged with
        self._records = list(validation)
        self._lengths = np.array([one.length for one in self.train], dtype=np.int64)
        self._steps = 0

    def judged_by(self, validation: Sequence[Record]) -> TaskSource:
        """The same training examples, measured on other records; of a run it knows nothing."""
        other = copy.copy(self)
        other.validation = [example for one in validation for example in self.fitted.examples(one)]
        other._records = list(validation)
        other.remember({}, {})
        return other

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"attentune task 1")
        digest.update(json.dumps(self.fitted.task.model_dump(mode="json"), sort_keys=True).encode())
        for part in (self.train, self.validation):
            for example in part:
                for array in (example.ids, example.targets, example.source, example.marks):
                    if array is not None:
                        digest.update(f"{array.shape}{array.dtype}".encode())
                        digest.update(np.ascontiguousarray(array).data)
        if isinstance(self.fitted, Searching) and self.fitted.texts:  # those of test records are in no example
            digest.update(json.dumps(self.fitted.texts).encode())
        return digest.hexdigest()

    def buckets(self, run: RunSpec) -> Buckets:
        """The batches of a pass over the training records."""
        return Buckets(self._lengths, run.tokens_per_step, run.seed)

    def for_epochs(self, run: RunSpec, epochs: float) -> RunSpec:
        """`run` with the steps of that many passes over the records, measured and kept after each.

        Where `evaluate_every` or `checkpoint_every` are not their defaults, they stay.
        """
        each = self.buckets(run).per_pass
        steps = max(1, round(each * epochs))
        measured = each if run.evaluate_every == EVALUATE_EVERY else run.evaluate_every
        kept = each if run.checkpoint_every == CHECKPOINT_EVERY else run.checkpoint_every
        return run.replace(steps=steps, evaluate_every=measured, checkpoint_every=kept)

    def feed(self, run: RunSpec, *, has_memory: bool, device: torch.device) -> Feed:
        """Rows are independent: a model with memory starts anew with each."""
        del has_memory
        buckets = self.buckets(run)

        def at(step: int) -> StepData:
            self._steps = step + 1
            number = step // buckets.per_pass
            rows = [
                self.fitted.redrawn(self.train[row], np.random.default_rng((run.seed, number, row)))
                for row in buckets.batch(step).tolist()
            ]
            scored = sum(_scored(example) for example in rows)
            each = -(-len(rows) // run.accumulate)
            parts = [rows[start : start + each] for start in range(0, len(rows), each)]
            return StepData(tuple(self.fitted.batch(part, device, scored=scored) for part in parts), fresh=True)

        return at

    def evaluate(self, model: nn.Module, run: RunSpec, *, last: bool) -> tuple[float, LanguageScore | None]:
        """The mean loss of a scored target of the validation records in nats, weighted as in training, not smoothed.

        Where the task is chosen by its score, the records are also predicted and scored. The best weights are kept.
        With `run.average` above 1 it is the mean of the weights at the last evaluations that is measured and kept
        (arXiv:1706.03762, section 6.1); the training goes on from its own.
        """
        del last
        own = {name: tensor.detach().clone() for name, tensor in weights_of(model).items()}
        measured = _mean([*self._latest, own])
        self._latest = [*self._latest, own][1 - run.average :] if run.average > 1 else []
        load_tensors(model, measured)
        found = self._measure(model, run)
        self.curve.append(found)
        if math.isfinite(found.loss) and (self.best is None or _better(found, self.best)):
            self.best, self._best_weights = found, measured
        load_tensors(model, own)
        return found.loss, None

    def _measure(self, model: nn.Module, run: RunSpec) -> Measured:
        loss = mean_loss(model, self.fitted, self.validation, tokens=4 * run.tokens_per_step)
        value, scores = -loss, {}
        if self.fitted.task.chosen_by == "score":
            self.fitted.settle(model, self._records)
            found = self.fitted.score(self.fitted.predict(model, self._records), self._records)
            value, scores = found.value, dict(found.values)
        return Measured(self._steps, loss, value, scores)

    def take_best(self, model: nn.Module) -> Measured | None:
        """Puts the weights that did best into `model`, and says how good they were; None where none were measured."""
        if self.best is not None:
            load_tensors(model, self._best_weights)
            self.fitted.settle(model, self._records)
        return self.best

    def remembered(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        best = None if self.best is None else asdict(self.best)
        tensors = {f"best.{name}": tensor for name, tensor in self._best_weights.items()}
        for number, weights in enumerate(self._latest):
            tensors |= {f"latest.{number}.{name}": tensor for name, tensor in weights.items()}
        return tensors, {"curve": [asdict(one) for one in self.curve], "best": best, "latest": len(self._latest)}

    def remember(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        self.curve = [Measured(**one) for one in plain.get("curve", [])]
        best = plain.get("best")
        self.best = None if best is None else Measured(**best)
        self._best_weights = _under("best", tensors)
        self._latest = [_under(f"latest.{number}", tensors) for number in range(plain.get("latest", 0))]


def _mean(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, in new ones; what is no floating-point number is as in the last."""
    return {
        name: torch.stack([one[name] for one in weights]).mean(0) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in weights[-1].items()
    }


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): one for name, one in tensors.items() if name.startswith(f"{prefix}.")}


def _better(one: Measured, other: Measured) -> bool:
    """A greater value, or as great a one with less loss."""
    return (one.value, -one.loss) > (other.value, -other.loss)


@torch.inference_mode()
def mean_loss(model: nn.Module, fitted: Fitted, examples: Sequence[Example], *, tokens: int) -> float:
    """Nats for each scored target of `examples`, in batches of about `tokens` tokens."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total, count = 0.0, 0
    buckets = Buckets(np.array([one.length for one in examples], dtype=np.int64), tokens)
    for rows in buckets.passed(0):
        part = fitted.batch([examples[row] for row in rows], device)
        logits = model(part.ids, part.layout, **part.inputs).logits
        total += float(summed_loss(logits, part))
        count += sum(_scored(examples[row]) for row in rows)
    model.train(was_training)
    return total / max(count, 1)


def summed_loss(logits: Tensor, part: MicroBatch) -> Tensor:
    """The loss of all scored targets together: of classes, or of labels that hold or not where targets are floats.

    Rare classes weigh in it as they do in training.
    """
    if part.holds_several:
        return F.binary_cross_entropy_with_logits(
            logits.float(), part.targets, pos_weight=part.class_weights, reduction="sum"
        )
    return F.cross_entropy(
        logits.float().flatten(0, -2),
        part.targets.flatten(),
        weight=part.class_weights,
        ignore_index=IGNORED,
        reduction="sum",
    )


def _scored(example: Example) -> int:
    targets = example.targets
    return targets.size if np.issubdtype(targets.dtype, np.floating) else int((targets != IGNORED).sum())
