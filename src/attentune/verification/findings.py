"""How far a computation may be from the truth, and how far it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

import torch

from attentune.shapes import Tensor

ROUNDING = {torch.float64: 64.0, torch.float32: 64.0, torch.bfloat16: 4.0, torch.float16: 4.0}
Tensors = dict[str, Tensor]  # the output and every gradient, by name, in float64


@dataclass(frozen=True)
class Finding:
    """One number that was compared: the largest error of `tensor`, and what is allowed."""

    check: str
    tensor: str
    error: float
    allowed: float

    @property
    def broken(self) -> bool:
        return not (isfinite(self.error) and self.error <= self.allowed)

    @property
    def severity(self) -> float:
        """Error as a multiple of what is allowed; infinite where it is no number, or where nothing is allowed."""
        if not isfinite(self.error):
            return float("inf")
        return self.error / self.allowed if self.allowed else float("inf") if self.error else 0.0

    def __str__(self) -> str:
        return f"{self.check}: {self.tensor} is off by {self.error:.3g}, allowed {self.allowed:.3g}"


def largest(tensor: Tensor) -> float:
    """The largest absolute number; NaN where there is one, 0 where there is nothing."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def against_reference(
    check: str,
    found: Tensors,
    plain: Tensors,
    exact: Tensors,
    dtype: torch.dtype,
    *,
    layers: int = 1,
    slack: float = 0,
    names: Collection[str] | None = None,
) -> Iterator[Finding]:
    """Error at most 2x (bf16 gradients 4x) that of the reference in the same dtype, + 4 eps of the largest number.

    Gradients are sums of which much cancels: what rounds is their terms, and the largest number of any stands for them.
    In float64 the reference cannot tell its own error, so that what it is known to keep to stands for it.
    What passes through several `layers` rounds in each of them. `slack` is for problems of bad condition,
    `names` for some of the tensors alone.
    """
    names = exact if names is None else names
    if dtype is torch.float64:
        for finding in within_dtype(check, found, exact, dtype, factor=layers, slack=slack):
            if finding.tensor in names:
                yield finding
        return
    everywhere = max(map(largest, exact.values()))
    for name, right in exact.items():
        if name not in names:
            continue
        times = 4 if dtype is torch.bfloat16 and name != "output" else 2
        scale = largest(right) if name == "output" else everywhere
        allowed = slack + times * largest(plain[name] - right) + 4 * layers * torch.finfo(dtype).eps * scale
        yield Finding(check, name, largest(found[name] - right), allowed)


def within_dtype(
    check: str, found: Tensors, exact: Tensors, dtype: torch.dtype, *, factor: float = 1, slack: float = 0
) -> Iterator[Finding]:
    """Error of the reference itself: a few eps, since inside it computes in float32 or wider; and `slack` more."""
    allowed = slack + factor * ROUNDING[dtype] * torch.finfo(dtype).eps * max(1.0, *map(largest, exact.values()))
    for name, right in exact.items():
        yield Finding(check, name, largest(found[name] - right), allowed)


def same(
    check: str, found: Mapping[str, Tensor], right: Mapping[str, Tensor], dtype: torch.dtype, *, slack: float = 0
) -> Iterator[Finding]:
    """Two ways to the same numbers, in the same dtype."""
    allowed = slack + 4 * ROUNDING[dtype] * torch.finfo(dtype).eps * max(1.0, *map(largest, right.values()))
    for name, tensor in right.items():
        yield Finding(check, name, largest(found[name].double() - tensor.double()), allowed)


def zero(check: str, name: str, tensor: Tensor) -> Finding:
    """Exactly 0 everywhere."""
    return Finding(check, name, largest(tensor), 0.0)


def holds(check: str, name: str, truth: bool) -> Finding:
    """A statement that is true or false."""
    return Finding(check, name, 0.0 if truth else float("inf"), 0.0)
