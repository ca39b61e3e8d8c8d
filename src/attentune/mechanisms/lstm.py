"""Long short-term memory beside attention (Hochreiter & Schmidhuber 1997).

    i, f, g, o = W x_t + U h_{t-1} + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),    h_t = sigmoid(o) tanh(c_t)

The layer's output is attention(x) + LSTM(x).
"""

from math import sqrt
from typing import Any, ClassVar, Literal, final

import torch
from torch.nn.functional import linear

from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.slots import Mixer


@final
class LSTM(Mixer):
    """One LSTM as wide as the model."""

    kind: Literal["lstm"] = "lstm"
    forms: ClassVar[tuple[str, ...]] = ("recurrent",)

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
        form: str = "auto",
    ) -> tuple[Float[Tensor, "B T E"], dict[str, Tensor]]:
        self.chosen(form, x.shape[1])
        if valid is None and starts is None and _fused(x):
            y, h, c = _by_torch(params, x, state)
            return y, {"h": h, "c": c}
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        gates = linear(x, params["w"], params["b"])
        if gates.dtype.itemsize < 4:
            gates = gates.float()  # the cell adds up over the whole row
        h, c = (state[name].to(gates.dtype) for name in ("h", "c"))
        h_all, c_all = _recur(gates, params["u"].to(gates.dtype), h, c, valid, starts)
        h_all, after = h_all.to(x.dtype), {"h": h_all[:, -1], "c": c_all[:, -1]}
        y = h_all if valid is None else h_all.masked_fill(~valid[..., None], 0.0)
        return y, after


def _fused(x: Tensor) -> bool:
    """Whether PyTorch's own LSTM serves: it is faster, but has no padding or resets, and the compiler unrolls it."""
    plain = not torch.compiler.is_compiling() and not torch.is_autocast_enabled(x.device.type)
    return plain and x.dtype.itemsize >= 4


def _by_torch(params: Params, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    h, c = (state[name][None].to(x.dtype) for name in ("h", "c"))
    weights = [params["w"], params["u"], params["b"], torch.zeros_like(params["b"])]
    y, h, c = torch.lstm(x, [h, c], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
    return y, h[0], c[0]


# The recurrence and its gradient are two opaque operators, so that torch.compile does not unroll them over time.
# Inside, time comes first and the gates stand as i, f, o, g, so that each step is a handful of operations.


@torch.library.custom_op("attentune::lstm", mutates_args=())
def _recur(
    gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h and c after every token [B T E]; padding keeps the state, a document's start resets it."""
    width = u.shape[1]
    steps, ut = _by_time(gates), _by_time(u.T[None])[:, 0]
    h_all, c_all = (gates.new_empty(gates.shape[1], gates.shape[0], width) for _ in range(2))
    for t, (now, h_next, c_next) in enumerate(zip(steps.unbind(), h_all.unbind(), c_all.unbind(), strict=True)):
        if starts is not None:
            h, c = h.masked_fill(starts[:, t, None], 0.0), c.masked_fill(starts[:, t, None], 0.0)
        now = torch.addmm(now, h, ut)
        i, f, o = now[:, : 3 * width].sigmoid_().chunk(3, -1)
        g = now[:, 3 * width :].tanh_()
        torch.addcmul(f * c, i, g, out=c_next)
        torch.mul(o, c_next.tanh(), out=h_next)
        if valid is not None:
            padding = ~valid[:, t, None]
            h_next.copy_(torch.where(padding, h, h_next))
            c_next.copy_(torch.where(padding, c, c_next))
        h, c = h_next, c_next
    return h_all.transpose(0, 1).contiguous(), c_all.transpose(0, 1).contiguous()


def _by_time(gates: Tensor) -> Tensor:
    """[B T 4E] with the gates i, f, g, o  ->  [T B 4E] with i, f, o, g."""
    i, f, g, o = gates.transpose(0, 1).chunk(4, -1)
    return torch.cat([i, f, o, g], -1)


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
    """Gradients of gates, u and the first h and c. The gates are computed again, for all steps at once."""
    h_before = torch.cat([h[:, None], h_all[:, :-1]], 1)
    c_before = torch.cat([c[:, None], c_all[:, :-1]], 1)
    if starts is not None:
        h_before = h_before.masked_fill(starts[..., None], 0.0)
        c_before = c_before.masked_fill(starts[..., None], 0.0)
    i, f, g, o = (gates + linear(h_before, u)).transpose(0, 1).chunk(4, -1)  # [T B E] each
    i, f, g, o, c_prev = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid(), c_before.transpose(0, 1)
    squashed = (f * c_prev + i * g).tanh()
    into_cell = o * (1 - squashed**2)  # dc per dh
    per_c = torch.stack([g * i * (1 - i), c_prev * f * (1 - f), i * (1 - g**2)], 2)  # d(i, f, g before) per dc
    per_h = squashed * o * (1 - o)  # d(o before) per dh
    steps = gates.new_empty(gates.shape[1], gates.shape[0], 4, u.shape[1])
    dh, dc = torch.zeros_like(h), torch.zeros_like(c)
    for t in reversed(range(gates.shape[1])):
        dh, dc = dh + dh_all[:, t], dc + dc_all[:, t]
        kept_h = kept_c = None
        if valid is not None:
            real = valid[:, t, None]
            kept_h, kept_c = dh.masked_fill(real, 0.0), dc.masked_fill(real, 0.0)
            dh, dc = dh.masked_fill(~real, 0.0), dc.masked_fill(~real, 0.0)
        now = steps[t]
        dc = torch.addcmul(dc, dh, into_cell[t])
        torch.mul(per_c[t], dc[:, None], out=now[:, :3])
        torch.mul(per_h[t], dh, out=now[:, 3])
        dh, dc = now.flatten(1) @ u, dc * f[t]
        if kept_h is not None and kept_c is not None:
            dh, dc = dh + kept_h, dc + kept_c
        if starts is not None:
            dh, dc = dh.masked_fill(starts[:, t, None], 0.0), dc.masked_fill(starts[:, t, None], 0.0)
    dgates = steps.flatten(2).transpose(0, 1).contiguous()
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
