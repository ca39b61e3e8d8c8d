"""The short convolution over earlier tokens that several mixers have."""

from typing import Any

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
    row, known = torch.cat([before, x], 1), None
    if document is not None:
        known = torch.cat([document.new_zeros(document.shape[0], reach), document], 1)
    y = _taps(row, weight, known)
    if valid is None:
        after, held = row[:, length:], None if known is None else known[:, length:]
    else:
        y = _rows(y, (valid.cumsum(1) - 1).clamp(min=0)).masked_fill(~valid[..., None], 0.0)
        kept = valid.sum(1, keepdim=True) + torch.arange(reach, device=x.device)
        after, held = _rows(row, kept), None if known is None else known.gather(1, kept)
    if held is not None and newest is not None:
        after = after.masked_fill((held - newest != 0)[..., None], 0.0)
    return y, after


def _rows(x: Float[Tensor, "B T C"], chosen: Tensor) -> Float[Tensor, "B N C"]:
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))


# The sum and its gradient are two opaque operators: autograd would keep, and fill up with zeros, a copy for every tap.


@torch.library.custom_op("attentune::short_convolution", mutates_args=())
def _taps(row: Tensor, weight: Tensor, document: Tensor | None) -> Tensor:
    """[B R+T C] to [B T C]: the sum over the taps of one document."""
    reach = weight.shape[1] - 1
    length = row.shape[1] - reach
    y = row[:, reach:] * weight[:, reach]
    for place in range(reach):
        tap = row[:, place : place + length]
        if document is not None:
            tap = tap.masked_fill(_foreign(document, place, reach), 0.0)
        y.addcmul_(tap, weight[:, place])
    return y


@_taps.register_fake
def _(row: Tensor, weight: Tensor, document: Tensor | None) -> Any:
    return row.new_empty(row.shape[0], row.shape[1] - weight.shape[1] + 1, row.shape[2])


@torch.library.custom_op("attentune::short_convolution_backward", mutates_args=())
def _taps_backward(dy: Tensor, row: Tensor, weight: Tensor, document: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of row and weight."""
    reach = weight.shape[1] - 1
    length = row.shape[1] - reach
    drow, dweight = torch.zeros_like(row), torch.empty_like(weight)
    for place in range(reach + 1):
        given = dy
        if document is not None and place < reach:
            given = dy.masked_fill(_foreign(document, place, reach), 0.0)
        drow[:, place : place + length].addcmul_(given, weight[:, place])
        dweight[:, place] = (given * row[:, place : place + length]).sum((0, 1))
    return drow, dweight


@_taps_backward.register_fake
def _(dy: Tensor, row: Tensor, weight: Tensor, document: Tensor | None) -> Any:
    return torch.empty_like(row), torch.empty_like(weight)


def _foreign(document: Tensor, place: int, reach: int) -> Tensor:
    """Where a tap lies in another document than its token."""
    length = document.shape[1] - reach
    return (document[:, place : place + length] != document[:, reach:])[..., None]


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> Any:
    return *_taps_backward(dy, *ctx.saved_tensors), None


torch.library.register_autograd("attentune::short_convolution", _differentiate, setup_context=_save)
