"""Training on rows of examples instead of a text: the suites' batches and scores for the loop."""

from __future__ import annotations

import hashlib
from typing import Literal, final

import numpy as np
import torch
from torch import nn

from attentune.data.batches import IGNORED, MicroBatch
from attentune.evaluation.language import LanguageScore
from attentune.evaluation.suites.scoring import SuiteScore, batch_of, score_examples
from attentune.evaluation.suites.suite import Examples
from attentune.spec.run import RunSpec
from attentune.training.feed import Feed, StepData


@final
class ExampleSource:
    """`train` in a new random order at each pass, measured on `test`; `score` is what the last measurement found.

    A pass takes whole batches; the rows that are left over are others each time. Only the answers are learned from.
    """

    def __init__(self, train: Examples, test: Examples, *, counts: Literal["answers", "rows"]) -> None:
        self.train, self.test, self._counts = train, test, counts
        self.score: SuiteScore | None = None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"attentune examples 1")
        for part in (self.train, self.test):
            for array in (part.ids, part.targets, part.lengths):
                if array is not None:
                    digest.update(f"{array.shape}".encode())
                    digest.update(np.ascontiguousarray(array.astype("<i4")).data)
        return digest.hexdigest()

    def feed(self, run: RunSpec, *, has_memory: bool, device: torch.device) -> Feed:
        """Rows are independent: a model with memory starts anew with each."""
        del has_memory
        per_pass = len(self.train) // run.batch
        rows = run.batch // run.accumulate
        orders: dict[int, np.ndarray] = {}

        def at(step: int) -> StepData:
            number, place = divmod(step, per_pass)
            if number not in orders:
                orders.clear()
                orders[number] = np.random.default_rng((run.seed, number)).permutation(len(self.train))
            chosen = orders[number][place * run.batch : (place + 1) * run.batch]
            asked = int((self.train.targets[chosen] != IGNORED).sum())
            parts = []
            for part in range(run.accumulate):
                ids, targets, layout = batch_of(self.train, chosen[part * rows : (part + 1) * rows], device)
                scored = torch.nonzero(targets.flatten() != IGNORED).squeeze(1)
                parts.append(MicroBatch(ids, targets, layout, len(scored) / max(1, asked), scored))
            return StepData(tuple(parts), fresh=True)

        return at

    def evaluate(self, model: nn.Module, run: RunSpec, *, last: bool) -> tuple[float, LanguageScore | None]:
        """The mean loss of an answer; always on all of `test`."""
        del last
        self.score = score_examples(model, self.test, counts=self._counts, batch=run.batch)
        return self.score.nats, None
