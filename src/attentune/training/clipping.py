"""Gradient clipping: by the global norm, or adaptively by the norm of each unit's weights (arXiv:2102.06171)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attentune.spec.run import ClipSpec
from attentune.training.optimizers import role

AGC_SMALLEST_WEIGHT_NORM = 1e-3  # the paper's epsilon: lets weights that start at zero grow


class Clipper:
    """Clips the gradients of the trainable parameters of `model` in place, as `spec` says."""

    def __init__(self, model: nn.Module, spec: ClipSpec) -> None:
        self._spec = spec
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._adaptive = [p for p in self._parameters if role(p) != "head"]

    def __call__(self) -> Tensor | None:
        """Clips; returns the global gradient norm before clipping where it was needed, a scalar."""
        if self._spec.name == "norm":
            return clip_norm(self._parameters, self._spec.limit)
        if self._spec.name == "agc":
            clip_adaptive(self._adaptive, self._spec.limit)
        return None


def clip_norm(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scales all gradients together so that their global norm is at most `limit`; returns the norm before, a scalar.

    A norm that is not finite leaves the gradients as they are, for the diagnosis.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if norm.device.type == "cpu":  # reading one number is free here, and mostly spares a pass over all gradients
        value = norm.item()
        if limit < value < float("inf"):
            torch._foreach_mul_(gradients, limit / value)
        return norm
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@torch.no_grad()
def clip_adaptive(parameters: list[nn.Parameter], limit: float) -> None:
    """Clips unit by unit: G_i <- limit * max(|W_i|, eps) / |G_i| * G_i wherever |G_i| / max(|W_i|, eps) > limit.

    A unit is a row of a matrix (everything that feeds one output), or the whole of a vector. The paper leaves out the
    last linear layer; the caller does by not passing it.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        allowed = limit * unit_norm(parameter).clamp_min(AGC_SMALLEST_WEIGHT_NORM)
        norm = unit_norm(gradient)
        gradient.mul_(torch.where(norm > allowed, allowed / norm, 1.0))


def unit_norm(tensor: Tensor) -> Tensor:
    """The norm of every unit, shaped to broadcast against `tensor`."""
    units = None if tensor.ndim < 2 else tuple(range(1, tensor.ndim))
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=units, keepdim=units is not None)
    return norm
