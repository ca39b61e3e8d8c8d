"""What the loop tells trackers and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from attentune.training.diagnostics import GradientRecord
from attentune.training.trackers import Tracker

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

REPORT_EVERY = 20  # steps between calls of `progress` and records of the trackers


@runtime_checkable
class Progress(Protocol):
    """Told how training goes, every 20 steps and at the end."""

    def __call__(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """`step` of `steps` are done; `loss` is the mean since the last call, in nats per token."""


def report(
    trackers: Sequence[Tracker],
    progress: Progress | None,
    *,
    step: int,
    steps: int,
    losses: Sequence[float],
    norms: Sequence[float],
    learning_rate: float,
    tokens_per_second: float,
) -> None:
    """Tells the mean loss since the last report, and the numbers of step `step`."""
    since = (step - 1) % REPORT_EVERY + 1
    recent = losses[step - since : step]
    loss = sum(recent) / len(recent)
    metrics = {"train/loss": loss, "train/learning_rate": learning_rate, "train/tokens_per_second": tokens_per_second}
    if norms and norms[-1] == norms[-1]:  # nan where clipping needed no norm
        metrics["train/gradient_norm"] = norms[-1]
    track(trackers, step, metrics)
    if progress is not None:
        progress(step, steps, loss, tokens_per_second)


def track(trackers: Sequence[Tracker], step: int, metrics: Mapping[str, float]) -> None:
    """The same metrics to every tracker."""
    for tracker in trackers:
        tracker.log(step, metrics)


def track_flow(trackers: Sequence[Tracker], record: GradientRecord) -> None:
    """Gradient norms by layer, and a text where layers vanish or explode."""
    track(trackers, record.step, {f"gradient/{layer}": norm for layer, norm in record.norms.items()})
    for name in ("vanishing", "exploding"):
        layers = getattr(record, name)
        if layers:
            for tracker in trackers:
                tracker.text(record.step, f"gradient/{name}", ", ".join(layers))


def peak_bytes(device: torch.device) -> int:
    """On CUDA the most memory that tensors held; else the process's peak resident memory, 0 if the system hides it."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS
