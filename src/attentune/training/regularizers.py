"""What is added to the loss: L1 and L2 penalties, by their gradients, and the model's auxiliary losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attentune.spec.run import RegularizerSpec


@torch.no_grad()
def add_penalty_gradients(parameters: list[nn.Parameter], spec: RegularizerSpec) -> None:
    """Adds the gradient of l1 * sum |w| + l2 * sum w^2 to the gradients of `parameters`.

    The same update as adding the penalty to the loss, without building its graph; |w| has gradient 0 at 0.
    """
    if spec.l1 == 0.0 and spec.l2 == 0.0:
        return
    trained: list[Tensor] = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in trained if p.grad is not None]
    if spec.l2:
        torch._foreach_add_(gradients, trained, alpha=2.0 * spec.l2)
    if spec.l1:
        torch._foreach_add_(gradients, torch._foreach_sign(trained), alpha=spec.l1)


def with_auxiliary(loss: Tensor, auxiliary: dict[str, Tensor], share: float) -> Tensor:
    """`loss` plus `share` times the sum of the model's auxiliary losses, which carry their own weights."""
    for value in auxiliary.values():
        loss = loss + share * value
    return loss
