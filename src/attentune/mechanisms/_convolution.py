"""The short convolution over earlier tokens that several mixers have."""

from __future__ import annotations

import torch

from attentune.shapes import Bool, Float, Tensor


def convolve(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C S"],
    before: Float[Tensor, "B R C"],
    valid: Bool[Tensor, "B T"] | None,
    starts: Bool[Tensor, "B T"] | None,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B R C"]]:
    """y_t = sum over s of weight[:, s] x_{t - (S-1) + s}, and the last R = S - 1 tokens, for what comes next.

    `before` holds the R tokens before the first. Padding is stepped over, whatever stands before a document's
    start counts as 0.
    """
    reach, length = weight.shape[1] - 1, x.shape[1]
    document = None if starts is None else starts.cumsum(1)  # [B T]
    newest = None if document is None else document[:, -1:]
    if valid is not None:
        order = (~valid).to(torch.int8).argsort(dim=1, stable=True)  # real tokens first, padding behind them
        x = _rows(x, order)
        document = None if document is None else document.gather(1, order)
    row = torch.cat([before, x], 1)
    known = None
    if document is not None:
        known = torch.cat([document.new_zeros(document.shape[0], reach), document], 1)
    y = torch.zeros_like(x)
    for place in range(reach + 1):
        tap = row[:, place : place + length]
        if known is not None and place < reach:
            tap = tap.masked_fill((known[:, place : place + length] != document)[..., None], 0.0)
        y = y + tap * weight[:, place]
    if valid is None:
        after, held = row[:, length:], None if known is None else known[:, length:]
    else:
        y = _rows(y, (valid.cumsum(1) - 1).clamp(min=0)).masked_fill(~valid[..., None], 0.0)
        kept = valid.sum(1, keepdim=True) + torch.arange(reach, device=x.device)
        after, held = _rows(row, kept), None if known is None else known.gather(1, kept)
    if held is not None:
        after = after.masked_fill((held != newest)[..., None], 0.0)
    return y, after


def _rows(x: Float[Tensor, "B T C"], chosen: Tensor) -> Float[Tensor, "B N C"]:
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
