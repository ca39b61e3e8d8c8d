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
        u = params["u"].to(gates.dtype)  # products in the precision of the input's,
        if gates.dtype.itemsize < 4:
            gates = gates.float()  # while the cell adds up over the whole row in float32
        h, c = (state[name].to(gates.dtype) for name in ("h", "c"))
        h_all, c_all, _ = _recur(gates, u, h, c, valid, starts)
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
# Inside, time comes first and the gates stand as i, f, o, g, so that each step is a handful of operations on what the
# processor's cache holds. The products take the precision of u; the states and their gradients keep their own.


@torch.library.custom_op("attentune::lstm", mutates_args=())
def _recur(
    gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """h and c after every token [B T E] and the gates after their functions [T B 4E].

    Padding keeps the state, a document's start resets it.
    """
    width = u.shape[1]
    steps, ut = _regrouped(gates.transpose(0, 1)), _regrouped(u.T)
    h_all, c_all = (gates.new_empty(gates.shape[1], gates.shape[0], width) for _ in range(2))
    for t, (now, h_next, c_next) in enumerate(zip(steps.unbind(), h_all.unbind(), c_all.unbind(), strict=True)):
        if starts is not None:
            h, c = h.masked_fill(starts[:, t, None], 0.0), c.masked_fill(starts[:, t, None], 0.0)
        now += h.to(u.dtype) @ ut
        i, f, o = now[:, : 3 * width].sigmoid_().chunk(3, -1)
        g = now[:, 3 * width :].tanh_()
        torch.addcmul(f * c, i, g, out=c_next)
        torch.mul(o, c_next.tanh(), out=h_next)
        if valid is not None:
            padding = ~valid[:, t, None]
            h_next.copy_(torch.where(padding, h, h_next))
            c_next.copy_(torch.where(padding, c, c_next))
        h, c = h_next, c_next
    return h_all.transpose(0, 1).contiguous(), c_all.transpose(0, 1).contiguous(), steps


def _regrouped(gates: Tensor) -> Tensor:
    """[... 4E] with the gates i, f, g, o  <->  i, f, o, g."""
    i, f, third, fourth = gates.chunk(4, -1)
    return torch.cat([i, f, fourth, third], -1)


@_recur.register_fake
def _(gates: Tensor, u: Tensor, h: Tensor, c: Tensor, valid: Tensor | None, starts: Tensor | None) -> Any:
    rows, length, width = *gates.shape[:2], u.shape[1]
    after = (gates.new_empty(rows, length, width) for _ in range(2))
    return *after, gates.new_empty(length, rows, 4 * width)


@torch.library.custom_op("attentune::lstm_backward", mutates_args=())
def _recur_backward(
    dh_all: Tensor | None,
    dc_all: Tensor | None,
    u: Tensor,
    h: Tensor,
    c: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
    h_all: Tensor,
    c_all: Tensor,
    steps: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, u and the first h and c."""
    width, ut = u.shape[1], _regrouped(u.T)
    h_before = torch.cat([h[:, None], h_all[:, :-1]], 1)
    c_before = torch.cat([c[:, None], c_all[:, :-1]], 1)
    if starts is not None:
        h_before = h_before.masked_fill(starts[..., None], 0.0)
        c_before = c_before.masked_fill(starts[..., None], 0.0)
    dsteps, dh, dc = torch.empty_like(steps), torch.zeros_like(h), torch.zeros_like(c)
    for t in reversed(range(len(steps))):
        dh = dh if dh_all is None else dh + dh_all[:, t]
        dc = dc if dc_all is None else dc + dc_all[:, t]
        kept_h = kept_c = None
        if valid is not None:
            real = valid[:, t, None]
            kept_h, kept_c = dh.masked_fill(real, 0.0), dc.masked_fill(real, 0.0)
            dh, dc = dh.masked_fill(~real, 0.0), dc.masked_fill(~real, 0.0)
        (i, f, o, g), squashed, now = steps[t].chunk(4, -1), c_all[:, t].tanh(), dsteps[t]
        dc = dc + _tanh_backward(dh * o, squashed)
        torch.cat([dc * g, dc * c_before[:, t], dh * squashed, dc * i], -1, out=now)
        sigmoids = now[:, : 3 * width]
        torch.ops.aten.sigmoid_backward.grad_input(sigmoids, steps[t, :, : 3 * width], grad_input=sigmoids)
        now[:, 3 * width :] = _tanh_backward(now[:, 3 * width :], g)
        dh, dc = (now.to(u.dtype) @ ut.T).to(dh.dtype), dc * f
        if kept_h is not None and kept_c is not None:
            dh, dc = dh + kept_h, dc + kept_c
        if starts is not None:
            dh, dc = dh.masked_fill(starts[:, t, None], 0.0), dc.masked_fill(starts[:, t, None], 0.0)
    dgates = _regrouped(dsteps.transpose(0, 1))
    return dgates, dgates.flatten(0, 1).T.to(u.dtype) @ h_before.flatten(0, 1).to(u.dtype), dh, dc


def _tanh_backward(gradient: Tensor, squashed: Tensor) -> Tensor:
    return gradient * (1 - squashed**2)


@_recur_backward.register_fake
def _(
    dh_all: Tensor | None,
    dc_all: Tensor | None,
    u: Tensor,
    h: Tensor,
    c: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
    h_all: Tensor,
    c_all: Tensor,
    steps: Tensor,
) -> Any:
    rows, length, width = h_all.shape
    return steps.new_empty(rows, length, 4 * width), torch.empty_like(u), torch.empty_like(h), torch.empty_like(c)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    _, *kept = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*kept, *output)


def _differentiate(ctx: Any, dh_all: Tensor | None, dc_all: Tensor | None, _: Any) -> Any:
    dgates, du, dh, dc = _recur_backward(dh_all, dc_all, *ctx.saved_tensors)
    return dgates, du, dh, dc, None, None


torch.library.register_autograd("attentune::lstm", _differentiate, setup_context=_save)
