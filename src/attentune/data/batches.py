"""Token streams to batches; nothing here keeps state, so resuming needs only the number of the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from attentune.data.corpus import Tokens
from attentune.errors import DataError
from attentune.kernels.layout import Layout

IGNORED = -100
"""The target of a position that is not scored (what torch's cross entropy ignores)."""

PADDING_DOCUMENT = -1
"""The document of a position that pads a row."""

_WORD = 2**64 - 1


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, and for each position the token to be predicted there."""

    ids: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]  # IGNORED where nothing is scored
    documents: Int64[Tensor, "B T"] | None = None  # which document each position belongs to; None: all the same


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together.

    Shape: ids [B T], targets [B T], or whatever the logits have before their last axis. `share` is the part of the
    step's scored targets that are in it, so that the shares' weighted sum of mean losses is the mean loss of the whole
    batch. `scored` [N] names the scored places of the flattened targets where they are few, so that the loss is
    computed for them alone. `inputs` is what the model is called with beside ids and layout: the tokens of a source.
    `class_weights` [C] multiply the loss of targets of each class (of a label that holds, where several may); they are
    about 1 on average, and the sum is still divided by the number of targets.
    """

    ids: Tensor
    targets: Tensor
    layout: Layout | None
    share: float
    scored: Tensor | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    class_weights: Tensor | None = None

    @property
    def holds_several(self) -> bool:
        """Whether a target says of each label if it holds, 1 or 0, and is no number of a class."""
        return self.targets.is_floating_point()


def training_batch(
    tokens: Tokens, *, seed: int, step: int, batch: int, context: int, isolate_documents: bool = False
) -> Batch:
    """`batch` rows of `context` tokens from uniformly random places: a pure function of `seed` and `step`.

    The places come from the counter-based generator Philox with (seed, step) as its key (Salmon et al., 2011), so
    any step's batch is had without those before it.

    Args:
        tokens: the stream.
        seed: of the run.
        step: which batch; each has its own.
        batch: rows.
        context: tokens a row.
        isolate_documents: gives `documents`, and `IGNORED` targets where the next token begins another document.

    Raises:
        DataError: the stream is shorter than one row and the token after it.
    """
    places = len(tokens.ids) - context
    if places < 1:
        raise DataError(f"a row of context {context} needs {context + 1} tokens, the text has {len(tokens.ids)}")
    key = np.array([seed & _WORD, step & _WORD], dtype=np.uint64)
    # The raw words stay the same in every version of numpy; the remainder's bias is below places / 2^64.
    starts = (np.random.Philox(key=key).random_raw(batch) % np.uint64(places)).astype(np.int64)
    positions = starts[:, None] + np.arange(context + 1)
    rows = torch.from_numpy(tokens.ids[positions].astype(np.int64))
    ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    if not isolate_documents:
        return Batch(ids, targets)
    return _isolated(ids, targets, torch.from_numpy(_documents(tokens, positions)))


def validation_batches(
    tokens: Tokens, *, context: int, batch: int, limit: int | None = None, isolate_documents: bool = False
) -> Iterator[Batch]:
    """The whole stream in windows that do not overlap: every token but the first is predicted exactly once.

    The last window is padded with id 0, target `IGNORED` and `PADDING_DOCUMENT`; the last batch may have fewer rows.

    Args:
        tokens: the stream.
        context: tokens a window.
        batch: windows a batch, at most.
        limit: about how many tokens to predict; takes that many evenly spaced windows, always the same ones, and at
            least one. None takes all.
        isolate_documents: as in `training_batch`; first tokens of documents are then not predicted.
    """
    predicted = len(tokens.ids) - 1
    if predicted < 1:
        raise DataError(f"nothing can be predicted in a text of {len(tokens.ids)} tokens; 2 are needed")
    windows = -(-predicted // context)
    taken = windows if limit is None else min(windows, max(1, limit // context))
    chosen = np.arange(taken, dtype=np.int64) * windows // taken
    for first in range(0, taken, batch):
        positions = chosen[first : first + batch, None] * context + np.arange(context + 1)
        inside = positions < len(tokens.ids)
        rows = np.where(inside, tokens.ids[np.minimum(positions, predicted)], 0).astype(np.int64)
        scored = torch.from_numpy(inside[:, 1:])
        ids = torch.from_numpy(np.where(inside[:, 1:], rows[:, :-1], 0))
        targets = torch.from_numpy(rows[:, 1:].copy()).masked_fill_(~scored, IGNORED)
        if not isolate_documents:
            yield Batch(ids, targets)
            continue
        isolated = _isolated(ids, targets, torch.from_numpy(_documents(tokens, positions)))
        assert isolated.documents is not None
        yield Batch(ids, isolated.targets, isolated.documents.masked_fill(~scored, PADDING_DOCUMENT))


def _documents(tokens: Tokens, positions: np.ndarray) -> np.ndarray:
    return np.searchsorted(tokens.starts, positions, side="right") - 1


def _isolated(ids: Tensor, targets: Tensor, documents: Tensor) -> Batch:
    here, following = documents[:, :-1].contiguous(), documents[:, 1:]
    return Batch(ids, targets.masked_fill(here != following, IGNORED), here)
