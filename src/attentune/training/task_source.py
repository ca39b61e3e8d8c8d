"""Training on the records of a task: batches of like length for the loop, and what the held-out records say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.bucketing import Buckets
from attentune.data.records import Record
from attentune.errors import DataError
from attentune.evaluation.language import LanguageScore
from attentune.spec.run import RunSpec
from attentune.tasks.task import Example, Fitted
from attentune.training.feed import Feed, StepData


@final
class TaskSource:
    """`train` in batches of `run.batch` x `run.context` tokens, measured on `validation`.

    A step's rows are of like length, as many as the tokens allow; all are seen once in a pass.
    """

    def __init__(self, fitted: Fitted, train: Sequence[Record], validation: Sequence[Record]) -> None:
        if not train or not validation:
            raise DataError("a task needs records to train on and records to be measured by")
        self.fitted = fitted
        self.train, self.validation = ([fitted.example(one) for one in part] for part in (train, validation))
        self._lengths = np.array([one.length for one in self.train], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"attentune task 1")
        digest.update(json.dumps(self.fitted.task.model_dump(mode="json"), sort_keys=True).encode())
        for part in (self.train, self.validation):
            for example in part:
                for array in (example.ids, example.targets, example.source):
                    if array is not None:
                        digest.update(f"{array.shape}{array.dtype}".encode())
                        digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def buckets(self, run: RunSpec) -> Buckets:
        """The batches of a pass over the training records."""
        return Buckets(self._lengths, run.tokens_per_step, run.seed)

    def feed(self, run: RunSpec, *, has_memory: bool, device: torch.device) -> Feed:
        """Rows are independent: a model with memory starts anew with each."""
        del has_memory
        buckets = self.buckets(run)

        def at(step: int) -> StepData:
            rows = [self.train[row] for row in buckets.batch(step)]
            scored = sum(_scored(example) for example in rows)
            each = -(-len(rows) // run.accumulate)
            parts = [rows[start : start + each] for start in range(0, len(rows), each)]
            return StepData(tuple(self.fitted.batch(part, device, scored=scored) for part in parts), fresh=True)

        return at

    def evaluate(self, model: nn.Module, run: RunSpec, *, last: bool) -> tuple[float, LanguageScore | None]:
        """The mean loss of a scored target of the validation records in nats, without label smoothing."""
        del last
        return mean_loss(model, self.fitted, self.validation, tokens=4 * run.tokens_per_step), None


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


def summed_loss(logits: torch.Tensor, part: MicroBatch) -> torch.Tensor:
    """The loss of all scored targets together: of classes, or of labels that hold or not where targets are floats."""
    if part.targets.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits.float(), part.targets, reduction="sum")
    return F.cross_entropy(logits.float().flatten(0, -2), part.targets.flatten(), ignore_index=IGNORED, reduction="sum")


def _scored(example: Example) -> int:
    targets = example.targets
    return targets.size if np.issubdtype(targets.dtype, np.floating) else int((targets != IGNORED).sum())
