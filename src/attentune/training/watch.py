"""Keeps the numbers of every step and notices the first that is not finite, without stalling the accelerator."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

DELAY = 20  # steps whose numbers an accelerator may keep to itself; on the CPU reading them is free


class StepWatch:
    """Losses and gradient norms of all steps so far.

    Args:
        losses: of the steps already made, nats per token.
        norms: their global gradient norms before clipping; nan where clipping needed none.
        device: where the steps run.
        broken: called with the 1-based number of the first step whose numbers are not finite; raises.
    """

    def __init__(
        self, *, losses: list[float], norms: list[float], device: torch.device, broken: Callable[[int, str], None]
    ) -> None:
        self.losses = losses
        self.norms = norms
        self._delay = 1 if device.type == "cpu" else DELAY
        self._broken = broken
        self._pending: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def add(self, loss: Tensor, total: Tensor, norm: Tensor | None) -> None:
        """Takes the scalars of one step: cross-entropy, the whole objective, the gradient norm if there is one."""
        self._pending.append((loss, total, norm))
        if len(self._pending) >= self._delay:
            self.settle()

    def settle(self) -> None:
        """Fetches everything that is pending."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        if self._delay == 1:
            rows = [
                [loss.item(), total.item(), math.nan if norm is None else norm.item()] for loss, total, norm in pending
            ]
        else:
            columns = [
                torch.stack([t.float(), a.float(), t.new_tensor(math.nan) if n is None else n.float()])
                for t, a, n in pending
            ]
            rows = torch.stack(columns).tolist()
        for (loss, total, norm), (_, _, given) in zip(rows, pending, strict=True):
            step = len(self.losses) + 1
            if not (math.isfinite(loss) and math.isfinite(total)):
                self._broken(step, "loss")
            if given is not None and not math.isfinite(norm):
                self._broken(step, "gradient norm")
            self.losses.append(loss)
            self.norms.append(norm)
