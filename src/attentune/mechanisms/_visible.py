"""What normalisers share: acting on the visible keys of a row alone, and counting them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from attentune.shapes import Bool, Float, Tensor


def over_visible(
    normalize: Callable[[Tensor], Tensor], s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
) -> Float[Tensor, "B H Q K"]:
    """`normalize` over the last axis, with hidden scores at -inf; rows that see nothing are 0 everywhere."""
    if visible is None:
        return normalize(s)
    seen = visible.any(-1, keepdim=True)
    # A row that sees nothing keeps finite scores, so that neither it nor its gradient is ever NaN.
    return normalize(s.masked_fill(~visible & seen, float("-inf"))).masked_fill(~seen, 0.0)


def visible_count(s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None) -> Float[Tensor, "..."]:
    """How many keys each query sees, as [... Q 1]; at least 1, so that it may divide."""
    if visible is None:
        return s.new_tensor(float(s.shape[-1]))
    spread = torch.broadcast_to(visible, torch.broadcast_shapes(visible.shape, s.shape[-2:]))
    return spread.sum(-1, keepdim=True).clamp(min=1).to(s.dtype)
