"""Batches for the loop: which tokens step number n sees, cut into micro-batches.

Everything here is a pure function of (run, step), so that resuming needs no iterator state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attentune.data.batches import IGNORED, MicroBatch, training_batch
from attentune.data.corpus import Tokens
from attentune.errors import TrainingError
from attentune.kernels.layout import Layout
from attentune.spec.run import RunSpec


@dataclass(frozen=True)
class StepData:
    """The micro-batches of one step; `fresh` means that a memory-carrying model starts anew."""

    parts: tuple[MicroBatch, ...]
    fresh: bool


Feed = Callable[[int], StepData]
"""From the number of a step to its data."""


def step_feed(tokens: Tokens, run: RunSpec, *, has_memory: bool, device: torch.device) -> Feed:
    """The function from step number to its data.

    Raises:
        TrainingError: too little text, or documents are to be isolated in a model that carries memory.
    """
    if has_memory:
        if run.data.isolate_documents:
            raise TrainingError(
                "data.isolate_documents cannot be honoured by a model whose memory crosses documents; turn one off"
            )
        segments = SegmentStreams(tokens, batch=run.batch, context=run.context, seed=run.seed)

        def consecutive(step: int) -> StepData:
            ids, targets = segments.at(step)
            return _split(ids, targets, None, run.accumulate, device, fresh=segments.starts(step))

        return consecutive

    def shuffled(step: int) -> StepData:
        batch = training_batch(
            tokens,
            seed=run.seed,
            step=step,
            batch=run.batch,
            context=run.context,
            isolate_documents=run.data.isolate_documents,
        )
        return _split(batch.ids, batch.targets, batch.documents, run.accumulate, device, fresh=True)

    return shuffled


class SegmentStreams:
    """Consecutive segments of `batch` parallel streams, for models that carry memory from segment to segment.

    The text is cut into `batch` streams of equal length. Step by step, row b takes the next `context` tokens of stream
    b; after the last whole segment a new pass starts, shifted by a few tokens drawn from (seed, pass), so that the
    segments' edges fall elsewhere.

    Raises:
        TrainingError: a stream is shorter than two contexts.
    """

    def __init__(self, tokens: Tokens, *, batch: int, context: int, seed: int) -> None:
        ids = torch.from_numpy(np.ascontiguousarray(tokens.ids))
        length = len(ids) // batch
        self._per_pass = (length - context) // context  # leaves room for the shift and for the last target
        if self._per_pass < 1:
            raise TrainingError(
                f"{len(ids)} training tokens are too few for {batch} streams of at least {2 * context} tokens each; "
                "use more text, a smaller batch or a smaller context"
            )
        self._streams = ids[: batch * length].view(batch, length)
        self._context = context
        self._seed = seed

    def starts(self, step: int) -> bool:
        """Whether step number `step` begins a pass, and memory must be empty."""
        return step % self._per_pass == 0

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """ids [B T] and targets [B T] of step number `step`."""
        number, segment = divmod(step, self._per_pass)
        shift = int(np.random.default_rng((self._seed, number)).integers(self._context))
        start = shift + segment * self._context
        piece = self._streams[:, start : start + self._context + 1].long()
        return piece[:, :-1], piece[:, 1:]


def _split(
    ids: Tensor, targets: Tensor, documents: Tensor | None, parts: int, device: torch.device, *, fresh: bool
) -> StepData:
    ids, targets = ids.to(device, non_blocking=True), targets.to(device, non_blocking=True)
    documents = documents.to(device, non_blocking=True) if documents is not None else None
    if parts == 1:
        layout = Layout.packed(documents) if documents is not None else None
        return StepData((MicroBatch(ids, targets, layout, 1.0),), fresh)
    rows = ids.shape[0] // parts
    scored = (targets != IGNORED).view(parts, -1).sum(1).tolist()
    pieces = []
    for part in range(parts):
        own = slice(part * rows, (part + 1) * rows)
        layout = Layout.packed(documents[own]) if documents is not None else None
        pieces.append(MicroBatch(ids[own], targets[own], layout, scored[part] / max(1, sum(scored))))
    return StepData(tuple(pieces), fresh)
