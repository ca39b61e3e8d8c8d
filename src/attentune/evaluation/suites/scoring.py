"""How well a model answers the examples of a suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED
from attentune.evaluation.suites.suite import Examples
from attentune.kernels.layout import Layout
from attentune.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class SuiteScore:
    """Right answers, the most likely token being what a model answers.

    - `accuracy`: the share that the suite counts, of answers or of rows; `groups` tells it for each group of rows.
    - `answers_right`, `rows_right`: the share of single answers, and of rows whose answers are all right.
    - `nats`: mean cross-entropy of an answer.
    """

    accuracy: float
    answers_right: float
    rows_right: float
    nats: float
    answers: int
    rows: int
    groups: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def score_examples(
    model: nn.Module,
    examples: Examples,
    *,
    counts: Literal["answers", "rows"],
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> SuiteScore:
    """Scores `model` on `examples`, with earlier answers given; its training mode is restored afterwards.

    Args:
        model: called as `model(ids, layout)`, and with `state=` if its `has_memory` is true: rows longer than its
            context are then read piece by piece.
        examples: rows of tokens with the answers that are asked for.
        counts: what `accuracy` is a share of.
        batch: rows that go through the model together; does not change the score.
        progress: told (rows scored, rows in all).
    """
    right: list[np.ndarray] = []  # a row's right answers
    asked: list[np.ndarray] = []
    nats = 0.0
    device = next(model.parameters()).device
    with _evaluating(model):
        for ids, targets, layout in batches(examples, batch, device, equal_lengths=_has_memory(model)):
            row, column = torch.nonzero(targets != IGNORED, as_tuple=True)
            logits = _logits(model, ids, layout)[row, column].float()
            answers = targets[row, column]
            nats += F.cross_entropy(logits, answers, reduction="none").double().sum().item()
            hits = (logits.argmax(-1) == answers).cpu().numpy()
            rows = row.cpu().numpy()
            right.append(np.bincount(rows, weights=hits, minlength=len(ids)))
            asked.append(np.bincount(rows, minlength=len(ids)))
            if progress is not None:
                progress(sum(map(len, asked)), len(examples))
    hit, told = np.concatenate(right), np.concatenate(asked)

    def share(chosen: np.ndarray) -> float:
        if counts == "rows":
            return float((hit == told)[chosen].mean())
        return float(hit[chosen].sum() / told[chosen].sum())

    everything = np.ones(len(hit), dtype=bool)
    names = examples.groups or ()
    belongs = np.array(names)
    return SuiteScore(
        accuracy=share(everything),
        answers_right=float(hit.sum() / told.sum()),
        rows_right=float((hit == told).mean()),
        nats=nats / int(told.sum()),
        answers=int(told.sum()),
        rows=len(hit),
        groups={name: share(belongs == name) for name in dict.fromkeys(names)},
    )


def batches(
    examples: Examples, size: int, device: torch.device, *, equal_lengths: bool = False
) -> Iterator[tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Layout | None]]:
    """Ids, targets and the layout of up to `size` rows at a time, cut to the longest of them."""
    start = 0
    while start < len(examples):
        stop = min(start + size, len(examples))
        if equal_lengths and examples.lengths is not None:
            other = np.flatnonzero(examples.lengths[start:stop] != examples.lengths[start])
            stop = start + int(other[0]) if len(other) else stop
        yield batch_of(examples, np.arange(start, stop), device)
        start = stop


def batch_of(
    examples: Examples, chosen: Int[np.ndarray, " B"], device: torch.device
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Layout | None]:
    """Ids, targets and the layout of the `chosen` rows; no layout where none of them is padded."""
    longest, layout = examples.ids.shape[1], None
    if examples.lengths is not None:
        lengths = examples.lengths[chosen]
        longest = int(lengths.max())
        if (lengths < longest).any():
            layout = Layout.padded(torch.from_numpy(np.arange(longest) < lengths[:, None]).to(device))
    ids = torch.from_numpy(examples.ids[chosen, :longest].astype(np.int64)).to(device, non_blocking=True)
    targets = torch.from_numpy(examples.targets[chosen, :longest].astype(np.int64)).to(device, non_blocking=True)
    return ids, targets, layout


def _has_memory(model: nn.Module) -> bool:
    return bool(getattr(model, "has_memory", False))


def _logits(model: nn.Module, ids: Int[Tensor, "B T"], layout: Layout | None) -> Float[Tensor, "B T V"]:
    context = getattr(getattr(model, "spec", None), "context", ids.shape[1])
    if not _has_memory(model) or ids.shape[1] <= context:
        logits: Tensor = model(ids, layout).logits
        return logits
    pieces: list[Tensor] = []
    state: Any = None
    for start in range(0, ids.shape[1], context):
        output = model(ids[:, start : start + context], state=state)
        state = output.state
        pieces.append(output.logits)
    return torch.cat(pieces, 1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
