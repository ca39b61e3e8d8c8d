"""The core as `torch.library` operators: opaque to compilers; the backward pass keeps q, k, v, o and lse."""

# No `from __future__ import annotations`: torch.library reads the annotations of operators as types.
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attentune.kernels.native.library import call, segments
from attentune.kernels.native.problem import Assembled, Given, exact, head_last, operand, readable, reduced, stored


def compute_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Sequence[Tensor],
    extra_logit: Tensor | None,
    table: Sequence[Tensor],
    query_position: Tensor,
    key_position: Tensor,
    seed: Tensor,
    scale: float,
    steps: Sequence[int],
    caps: Sequence[float],
    kind: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Output [B H Q V] and lse [B H Q]: of the visible keys alone, NaN for weights that need none."""
    given = Given(
        q, k, v, values, extra_logit, table, query_position, key_position, seed, scale, steps, caps, kind, dropout
    )
    own = stored(q, k)
    made = Assembled(given, own)
    (batch, heads, queries), dtype = q.shape[:3], exact(q.dtype)
    output = head_last(batch, heads, queries, v.shape[3], q, own)
    lse = q.new_full((batch, heads, queries), float("nan"), dtype=dtype)
    made.problem.output, made.problem.lse = operand(output), operand(lse)
    call("forward", made.problem)
    return output.to(q.dtype), lse


blocked_forward = torch.library.custom_op("attentune::blocked_forward", mutates_args=(), device_types="cpu")(
    compute_forward
)


@blocked_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
    batch, heads, queries = q.shape[:3]
    lse = q.new_empty(batch, heads, queries, dtype=exact(q.dtype))
    return head_last(batch, heads, queries, v.shape[3], q, q.dtype), lse


def compute_statistics(
    lse: Tensor,
    wanted: str,
    top: int,
    q: Tensor,
    k: Tensor,
    values: Sequence[Tensor],
    extra_logit: Tensor | None,
    table: Sequence[Tensor],
    query_position: Tensor,
    key_position: Tensor,
    scale: float,
    steps: Sequence[int],
    caps: Sequence[float],
    kind: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Column mass [B H K], entropy [B H Q], the greatest weights and their keys [B H Q top], and lse.

    `wanted` names them, separated by spaces; what is not wanted is empty.
    The lse that is given stands for the softmax; it is computed anew only for weights that are no softmax.
    """
    seed = torch.zeros((), dtype=torch.int64)
    given = Given(
        q, k, k, values, extra_logit, table, query_position, key_position, seed, scale, steps, caps, kind, 0.0
    )
    made = Assembled(given)
    p, column_mass, entropy, weight, key, own = made.problem, *_statistics_like(q, k, wanted, top)
    if "column_mass" in wanted:
        p.column_mass = operand(column_mass)
    if "entropy" in wanted:
        p.entropy = operand(entropy)
    if "top_k" in wanted and top:
        p.top_weight, p.top_key, p.top = operand(weight.zero_()), operand(key.zero_()), top
    p.lse, p.wants_lse = operand(own if "lse" in wanted else lse), "lse" in wanted
    call("statistics", p)
    return column_mass, entropy, weight, key, own


blocked_statistics = torch.library.custom_op("attentune::blocked_statistics", mutates_args=(), device_types="cpu")(
    compute_statistics
)


@blocked_statistics.register_fake
def _(lse: Tensor, wanted: str, top: int, q: Tensor, k: Tensor, *rest: Any) -> Any:
    return _statistics_like(q, k, wanted, top)


def _statistics_like(q: Tensor, k: Tensor, wanted: str, top: int) -> tuple[Tensor, ...]:
    (batch, heads, queries), keys, dtype = q.shape[:3], k.shape[2], exact(q.dtype)
    mass = (batch, heads, keys if "column_mass" in wanted else 0)
    row = (batch, heads, queries if "entropy" in wanted else 0)
    best = (batch, heads, queries, top if "top_k" in wanted else 0)
    own = (batch, heads, queries if "lse" in wanted else 0)
    made = (q.new_empty(shape, dtype=dtype) for shape in (mass, row, best))
    return *made, q.new_empty(best, dtype=torch.int64), q.new_empty(own, dtype=dtype)


def _gradient_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    batch, heads, tokens, width = x.shape
    return head_last(batch, heads, tokens, width, x, dtype)


def compute_backward(
    d_output: Tensor,
    d_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    wanted: Sequence[bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Sequence[Tensor],
    extra_logit: Tensor | None,
    table: Sequence[Tensor],
    query_position: Tensor,
    key_position: Tensor,
    seed: Tensor,
    scale: float,
    steps: Sequence[int],
    caps: Sequence[float],
    kind: int,
    dropout: float,
) -> list[Tensor]:
    """Gradients of q, k, v, the extra logit, and each of `values`; empty for the last where not `wanted`."""
    given = Given(
        q, k, v, values, extra_logit, table, query_position, key_position, seed, scale, steps, caps, kind, dropout
    )
    own, dtype = stored(q, k), exact(q.dtype)
    made = Assembled(given, own)
    output, d_output = readable(output, own), readable(d_output, own)
    dq, dk, dv = (_gradient_like(x, own) for x in (q, k, v))
    p = made.problem
    p.output, p.d_output, p.lse = operand(output), operand(d_output), operand(lse)
    p.dq, p.dk, p.dv = operand(dq), operand(dk), operand(dv)
    if d_lse is not None:
        d_lse = d_lse.contiguous()
        p.d_lse = operand(d_lse)
    p.segments = segments(p)
    buffers = made.collect(steps, wanted)
    call("backward", p)
    extra = q.new_empty(0)
    if extra_logit is not None:
        # The extra logit's own weight w meets no value: the gradient of its score is w (0 - sum over d of do o).
        logit = extra_logit.to(dtype)[:, None]
        weight = torch.exp(logit - torch.logaddexp(lse, logit)).masked_fill(lse.isneginf(), 0.0)
        extra = -(weight * (d_output.to(dtype) * output).sum(-1)).sum((0, 2)).to(extra_logit.dtype)
    gradients = [reduced(b, x) if w else b for b, x, w in zip(buffers, values, wanted, strict=True)]
    return [dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), extra, *gradients]


blocked_backward = torch.library.custom_op("attentune::blocked_backward", mutates_args=(), device_types="cpu")(
    compute_backward
)


@blocked_backward.register_fake
def _(
    d_output: Tensor,
    d_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    wanted: Sequence[bool],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Sequence[Tensor],
    extra_logit: Tensor | None,
    *rest: Any,
) -> Any:
    dq, dk, dv = (_gradient_like(x, x.dtype) for x in (q, k, v))
    extra = q.new_empty(0) if extra_logit is None else torch.empty_like(extra_logit)
    shaped = [x.new_empty(x.shape) if want else x.new_empty(0) for x, want in zip(values, wanted, strict=True)]
    return [dq, dk, dv, extra, *shaped]


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, values, extra_logit, table, query_position, key_position, seed, *rest = inputs
    ctx.set_materialize_grads(False)
    ctx.counts, ctx.rest, ctx.extra = (len(values), len(table)), rest, extra_logit is not None
    ctx.wanted = [value.requires_grad for value in values]
    extra = [extra_logit] if ctx.extra else []
    ctx.save_for_backward(*output, q, k, v, query_position, key_position, seed, *values, *table, *extra)


def _differentiate(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> Any:
    return _gradients(ctx, d_output, d_lse, blocked_backward)


def _gradients(
    ctx: Any, d_output: Tensor | None, d_lse: Tensor | None, backward: Callable[..., list[Tensor]]
) -> tuple[Any, ...]:
    output, lse, q, k, v, query_position, key_position, seed, *more = ctx.saved_tensors
    values_count, table_count = ctx.counts
    values, table, extra = more[:values_count], more[values_count:][:table_count], (more[-1] if ctx.extra else None)
    if d_output is None:
        d_output = torch.zeros_like(output)
    positions = (query_position, key_position)
    operands = (q, k, v, values, extra, table, *positions, seed, *ctx.rest)
    dq, dk, dv, d_extra, *d_values = backward(d_output, d_lse, output, lse, ctx.wanted, *operands)
    given = [d if want else None for d, want in zip(d_values, ctx.wanted, strict=True)]
    # An empty list of numbers passes for one of tensors, and must come back as a list.
    nothing: list[Any] = [[] if isinstance(x, list | tuple) and not x else None for x in ctx.rest]
    return dq, dk, dv, given, (d_extra if ctx.extra else None), [None] * table_count, None, None, None, *nothing


torch.library.register_autograd("attentune::blocked_forward", _differentiate, setup_context=_save)


def is_plain(*tensors: Tensor) -> bool:
    """Whether nothing looks at operators on these tensors, so that they may be computed without one.

    The first operator of a process imports the compiler, which takes seconds, and each costs as much as a short row.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Sequence[Tensor],
    extra_logit: Tensor | None,
    table: Sequence[Tensor],
    *rest: Any,
    known: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`blocked_forward`; with `known`, what it gave for these operands before, with the same gradients."""
    if known is None and not is_plain(q, k, v):
        given: tuple[Tensor, Tensor] = blocked_forward(q, k, v, values, extra_logit, table, *rest)
        return given
    found: tuple[Tensor, Tensor] = _Core.apply(known, table, rest, q, k, v, extra_logit, *values)  # type: ignore[no-untyped-call]
    return found


def statistics(lse: Tensor, wanted: str, top: int, q: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """`blocked_statistics`; where a gradient might be asked for, the operator says that there is none."""
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (lse, q, k))
    compute: Callable[..., tuple[Tensor, ...]] = blocked_statistics
    if is_plain(q, k) and not asked:
        compute = compute_statistics
    return compute(lse, wanted, top, q, k, *rest)


class _Core(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        known: tuple[Tensor, Tensor] | None,
        table: Sequence[Tensor],
        rest: Sequence[Any],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extra_logit: Tensor | None,
        *values: Tensor,
    ) -> tuple[Tensor, ...]:
        if known is None:
            given = compute_forward(q, k, v, values, extra_logit, table, *rest)
        else:
            given = (known[0].detach(), known[1].detach())
        _save(ctx, (q, k, v, values, extra_logit, table, *rest), given)
        return given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        dq, dk, dv, d_values, d_extra, *_ = _gradients(ctx, d_output, d_lse, compute_backward)
        return None, None, None, dq, dk, dv, d_extra, *d_values
