"""Long short-term memory beside attention (Hochreiter & Schmidhuber 1997).

    i, f, g, o = W x_t + U h_{t-1} + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),    h_t = sigmoid(o) tanh(c_t)

The layer's output is attention(x) + LSTM(x).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Literal, final

import torch
from torch.nn.functional import linear

from attentune.shapes import Bool, Float, Tensor
from attentune.spec.slots import Dims, Mixer, Parameter, Params, constant, normal


@final
class LSTM(Mixer):
    """One LSTM as wide as the model."""

    kind: Literal["lstm"] = "lstm"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        shape, std = (4 * dims.width, dims.width), 1 / sqrt(dims.width)
        return {
            "w": Parameter(shape, normal(std), weight_decay=True),
            "u": Parameter(shape, normal(std), weight_decay=True),
            "b": Parameter((4 * dims.width,), constant(0.0)),
        }

    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        return {name: like.new_zeros(batch, dims.width) for name in ("h", "c")}

    def mix(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T E"], dict[str, Tensor]]:
        gates = linear(x, params["w"], params["b"])
        y, h, c = _recur(gates, params["u"].to(gates.dtype), state["h"].to(gates.dtype), state["c"].to(gates.dtype), valid, starts)
        return y, {"h": h, "c": c}


def _steps(
    gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = []
    for t in range(gates.shape[1]):
        if starts is not None:
            h, c = h.masked_fill(starts[:, t, None], 0.0), c.masked_fill(starts[:, t, None], 0.0)
        i, f, g, o = linear(h, u).add(gates[:, t]).chunk(4, -1)
        c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h_next = o.sigmoid() * c_next.tanh()
        if valid is None:
            h, c = h_next, c_next
            outputs.append(h)
        else:
            alive = valid[:, t, None]
            h, c = torch.where(alive, h_next, h), torch.where(alive, c_next, c)
            outputs.append(h.masked_fill(~alive, 0.0))
    return torch.stack(outputs, 1), h, c


# The recurrence is one opaque operator, so that torch.compile does not unroll it over time. Its
# backward pass runs the steps again with gradients.


@torch.library.custom_op("attentune::lstm", mutates_args=())
def _recur(
    gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    y, h_last, c_last = _steps(gates, u, h, c, valid, starts)
    return y, h_last.clone(), c_last.clone()


@_recur.register_fake
def _(gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None) -> Any:
    return gates.new_empty(*gates.shape[:2], u.shape[1]), torch.empty_like(h), torch.empty_like(c)


@torch.library.custom_op("attentune::lstm_backward", mutates_args=())
def _recur_backward(
    dy: Tensor,
    dh: Tensor,
    dc: Tensor,
    gates: Tensor,
    u: Tensor,
    h: Tensor,
    c: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (gates, u, h, c)]
        outputs = _steps(*inputs, valid, starts)
        found = torch.autograd.grad(outputs, inputs, (dy, dh, dc), allow_unused=True)
    dgates, du, dh0, dc0 = (
        torch.zeros_like(tensor) if gradient is None else gradient.contiguous()
        for tensor, gradient in zip(inputs, found, strict=True)
    )
    return dgates, du, dh0, dc0


@_recur_backward.register_fake
def _(
    dy: Tensor,
    dh: Tensor,
    dc: Tensor,
    gates: Tensor,
    u: Tensor,
    h: Tensor,
    c: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
) -> Any:
    return torch.empty_like(gates), torch.empty_like(u), torch.empty_like(h), torch.empty_like(c)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> Any:
    gates, u, h, c, valid, starts = ctx.saved_tensors
    dgates, du, dh0, dc0 = _recur_backward(
        dy.contiguous(), dh.contiguous(), dc.contiguous(), gates, u, h, c, valid, starts
    )
    return dgates, du, dh0, dc0, None, None


torch.library.register_autograd("attentune::lstm", _differentiate, setup_context=_save)
