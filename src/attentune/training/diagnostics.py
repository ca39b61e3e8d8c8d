"""Gradient flow, layer by layer, and what to say when training breaks.

The rule: layers are the numbered parts of the model (`blocks.0`, ...), compared by the root mean square of
their gradient entries. A layer **vanishes** when that is zero or under 1/1000 of the median layer's; it **explodes**
when it is not finite or over 1000 times the median. Parts without a number (embedding, head) are recorded, and
flagged only where all their gradients are zero or one is not finite: their scale says nothing about the depth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VANISHING = 1e-3
EXPLODING = 1e3
GROWTH = 10.0  # of the gradient norm against its recent median: then the learning rate is the likely culprit


@dataclass(frozen=True)
class GradientRecord:
    """Gradient flow at one step, before clipping.

    `norms` holds the Euclidean norm of the gradient of each layer, in the model's order.
    """

    step: int
    norms: dict[str, float]
    vanishing: tuple[str, ...]
    exploding: tuple[str, ...]


def layer_of(parameter_name: str) -> str:
    """`blocks.3.attention.query.weight` belongs to `blocks.3`, `embedding.weight` to `embedding`."""
    parts = parameter_name.split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: position + 1])
    return parts[0]


def gradient_flow(model: nn.Module, *, step: int) -> GradientRecord:
    """The gradient norm of every layer, and the layers that vanish or explode by the rule above."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    if not named:
        return GradientRecord(step=step, norms={}, vanishing=(), exploding=())
    squares = torch.stack(torch._foreach_norm([gradient for _, gradient in named])).double().square().tolist()
    total: dict[str, float] = {}
    entries: dict[str, int] = {}
    for (name, gradient), square in zip(named, squares, strict=True):
        layer = layer_of(name)
        total[layer] = total.get(layer, 0.0) + square
        entries[layer] = entries.get(layer, 0) + gradient.numel()
    scale = {layer: math.sqrt(total[layer] / entries[layer]) for layer in total}
    comparable = [s for layer, s in scale.items() if _numbered(layer) and math.isfinite(s)]
    median = statistics.median(comparable) if comparable else math.nan
    vanishing = [n for n, s in scale.items() if s == 0 or (_numbered(n) and s < VANISHING * median)]
    exploding = [n for n, s in scale.items() if not math.isfinite(s) or (_numbered(n) and s > EXPLODING * median)]
    norms = {layer: math.sqrt(value) for layer, value in total.items()}
    return GradientRecord(step=step, norms=norms, vanishing=tuple(vanishing), exploding=tuple(exploding))


def likely_cause(
    model: nn.Module,
    *,
    rerun: Callable[[], None],
    precision: str,
    learning_rate: float,
    norms: Sequence[float],
) -> str:
    """Why the loss or the gradient is no longer finite, as one clause, with what to do.

    Looks in this order: parameters that are already spoilt; the first module whose output is not finite when the batch
    goes through the model again (`rerun()`); the layer nearest the output whose gradient is not finite.
    """
    advice = _advice(precision, learning_rate, norms)
    spoilt = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if spoilt:
        return f"the weights of {layer_of(spoilt[0])} ({spoilt[0]}) are no longer finite; {advice}"
    with torch.no_grad(), _first_nonfinite_output(model) as found:
        rerun()
    if found:
        return f"the output of {found[0]} is the first that is not finite{_rounding(precision)}; {advice}"
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if bad:
        return f"the gradient of {bad[-1]} is not finite though its activations are{_rounding(precision)}; {advice}"
    return advice


def _advice(precision: str, learning_rate: float, norms: Sequence[float]) -> str:
    finite = [n for n in norms if math.isfinite(n)]
    if len(finite) >= 3:
        usual = statistics.median(finite[-50:])
        if finite[-1] > GROWTH * usual:
            return (
                f"the gradient norm grew from about {usual:.3g} to {finite[-1]:.3g}: the learning rate "
                f"{learning_rate:.3g} is probably too high, try {learning_rate / 3:.2g} or a longer warm-up"
            )
    switch = "precision fp32, " if precision == "bf16" else ""
    return f"try {switch}a learning rate below {learning_rate:.3g}, a longer warm-up or a lower clipping limit"


def _rounding(precision: str) -> str:
    return " (under bf16, which keeps 8 significant bits)" if precision == "bf16" else ""


def _numbered(layer: str) -> bool:
    return layer.rsplit(".", 1)[-1].isdigit()


@contextmanager
def _first_nonfinite_output(model: nn.Module) -> Iterator[list[str]]:
    """Collects, innermost and earliest first, the names of modules whose output is not finite."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [m.register_forward_hook(watch(name or "the model")) for name, m in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
