"""Dropout (Srivastava et al., 2014), with cheap random numbers on a CPU."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from attentune.shapes import Float, Tensor

_STEPS = 1 << 16  # how finely a share can be told


def dropout(x: Float[Tensor, "*sizes"], share: float) -> Float[Tensor, "*sizes"]:
    """`x` with `share` of its numbers set to zero and the others made larger, so that the mean stays.

    PyTorch's own draws a random number of 64 bits for each number of `x`, on one core, which takes longer than the
    matrix product before it. On a CPU 16 bits are used of each, so that `share` is rounded to a multiple of 1 / 65536.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, share)
    dropped = round(share * _STEPS)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (drawn >= dropped - _STEPS // 2).to(x.dtype)
    return x * kept.mul_(_STEPS / (_STEPS - dropped))
