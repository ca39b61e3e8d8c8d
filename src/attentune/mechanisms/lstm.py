"""Long short-term memory beside attention (Hochreiter & Schmidhuber 1997).

    i, f, g, o = W x_t + U h_{t-1} + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),    h_t = sigmoid(o) tanh(c_t)

The layer's output is attention(x) + LSTM(x).
"""

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
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        gates = linear(x, params["w"], params["b"])
        h, c = (state[name].to(gates.dtype) for name in ("h", "c"))
        h_all, c_all = _recur(gates, params["u"].to(gates.dtype), h, c, valid, starts)
        y = h_all if valid is None else h_all.masked_fill(~valid[..., None], 0.0)
        return y, {"h": h_all[:, -1], "c": c_all[:, -1]}


def _cell(gates: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The four gates, the next cell and its tanh."""
    i, f, g, o = linear(h, u).add_(gates).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c_next = f * c + i * g
    return i, f, g, o, c_next, c_next.tanh()


# The recurrence and its gradient are two opaque operators, so that torch.compile does not unroll them over time.


@torch.library.custom_op("attentune::lstm", mutates_args=())
def _recur(
    gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h and c after every token [B T E]; padding keeps the state, a document's start resets it."""
    hs, cs = [], []
    for t in range(gates.shape[1]):
        if starts is not None:
            h, c = h.masked_fill(starts[:, t, None], 0.0), c.masked_fill(starts[:, t, None], 0.0)
        _, _, _, o, c_next, squashed = _cell(gates[:, t], u, h, c)
        h_next = o * squashed
        if valid is not None:
            alive = valid[:, t, None]
            h_next, c_next = torch.where(alive, h_next, h), torch.where(alive, c_next, c)
        h, c = h_next, c_next
        hs.append(h)
        cs.append(c)
    return torch.stack(hs, 1), torch.stack(cs, 1)


@_recur.register_fake
def _(gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None) -> Any:
    shape = (*gates.shape[:2], u.shape[1])
    return gates.new_empty(shape), gates.new_empty(shape)


@torch.library.custom_op("attentune::lstm_backward", mutates_args=())
def _recur_backward(
    dh_all: Tensor,
    dc_all: Tensor,
    gates: Tensor,
    u: Tensor,
    h: Tensor,
    c: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
    h_all: Tensor,
    c_all: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, u and the first h and c: the steps backwards, gates computed again."""
    h_before = torch.cat([h[:, None], h_all[:, :-1]], 1)
    c_before = torch.cat([c[:, None], c_all[:, :-1]], 1)
    if starts is not None:
        h_before = h_before.masked_fill(starts[..., None], 0.0)
        c_before = c_before.masked_fill(starts[..., None], 0.0)
    dgates = torch.empty_like(gates)
    dh, dc = torch.zeros_like(h), torch.zeros_like(c)
    for t in reversed(range(gates.shape[1])):
        dh, dc = dh + dh_all[:, t], dc + dc_all[:, t]
        i, f, g, o, _, squashed = _cell(gates[:, t], u, h_before[:, t], c_before[:, t])
        kept_h = kept_c = None
        if valid is not None:
            alive = valid[:, t, None]
            kept_h, kept_c = dh.masked_fill(alive, 0.0), dc.masked_fill(alive, 0.0)
            dh, dc = dh.masked_fill(~alive, 0.0), dc.masked_fill(~alive, 0.0)
        dc_next = dc + dh * o * (1 - squashed**2)
        di, df, dg, do = dc_next * g, dc_next * c_before[:, t], dc_next * i, dh * squashed
        before = torch.cat([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], -1)
        dgates[:, t] = before
        dh, dc = before @ u, dc_next * f
        if kept_h is not None and kept_c is not None:
            dh, dc = dh + kept_h, dc + kept_c
        if starts is not None:
            dh, dc = dh.masked_fill(starts[:, t, None], 0.0), dc.masked_fill(starts[:, t, None], 0.0)
    return dgates, dgates.flatten(0, 1).T @ h_before.flatten(0, 1), dh, dc


@_recur_backward.register_fake
def _(
    dh_all: Tensor,
    dc_all: Tensor,
    gates: Tensor,
    u: Tensor,
    h: Tensor,
    c: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
    h_all: Tensor,
    c_all: Tensor,
) -> Any:
    return torch.empty_like(gates), torch.empty_like(u), torch.empty_like(h), torch.empty_like(c)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: Any, dh_all: Tensor, dc_all: Tensor) -> Any:
    dgates, du, dh, dc = _recur_backward(dh_all.contiguous(), dc_all.contiguous(), *ctx.saved_tensors)
    return dgates, du, dh, dc, None, None


torch.library.register_autograd("attentune::lstm", _differentiate, setup_context=_save)
