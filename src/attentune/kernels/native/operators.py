"""The core as `torch.library` operators: opaque to compilers, with shapes, gradients and nothing stored but q, k, v, o, lse."""

# No `from __future__ import annotations`: torch.library reads the annotations of operators as types.
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attentune.kernels.native.library import call, segments
from attentune.kernels.native.problem import Assembled, Given, exact, head_last, operand, readable, reduced


@torch.library.custom_op("attentune::blocked_forward", mutates_args=(), device_types="cpu")
def blocked_forward(
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
    """Output [B H Q V] and lse [B H Q] (of the keys alone, without the extra logit)."""
    given = Given(
        q, k, v, values, extra_logit, table, query_position, key_position, seed, scale, steps, caps, kind, dropout
    )
    made = Assembled(given)
    (batch, heads, queries), dtype = q.shape[:3], exact(q.dtype)
    output = head_last(batch, heads, queries, v.shape[3], q, dtype)
    lse = q.new_empty(batch, heads, queries, dtype=dtype)
    made.problem.output, made.problem.lse = operand(output), operand(lse)
    call("forward", made.problem)
    return output.to(q.dtype), lse


@blocked_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
    batch, heads, queries = q.shape[:3]
    lse = q.new_empty(batch, heads, queries, dtype=exact(q.dtype))
    return head_last(batch, heads, queries, v.shape[3], q, q.dtype), lse


@torch.library.custom_op("attentune::blocked_backward", mutates_args=(), device_types="cpu")
def blocked_backward(
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
    made, dtype = Assembled(given), exact(q.dtype)
    output, d_output = readable(output, dtype), readable(d_output, dtype)
    dq, dk, dv = (head_last(*x.shape, x, dtype) for x in (q, k, v))  # type: ignore[arg-type]
    made.problem.output, made.problem.d_output, made.problem.lse = operand(output), operand(d_output), operand(lse)
    made.problem.dq, made.problem.dk, made.problem.dv = operand(dq), operand(dk), operand(dv)
    if d_lse is not None:
        d_lse = d_lse.contiguous()
        made.problem.d_lse = operand(d_lse)
    made.problem.segments = segments(made.problem)
    buffers = made.collect(steps, wanted)
    call("backward", made.problem)
    extra = q.new_empty(0)
    if extra_logit is not None:
        # The extra logit's own weight w meets no value: its score's gradient is w (0 - sum over d of do o).
        logit = extra_logit.to(dtype)[:, None]
        own = torch.exp(logit - torch.logaddexp(lse, logit)).masked_fill(lse.isneginf(), 0.0)
        extra = -(own * (d_output * output).sum(-1)).sum((0, 2)).to(extra_logit.dtype)
    gradients = [reduced(b, x) if w else b for b, x, w in zip(buffers, values, wanted, strict=True)]
    return [dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), extra, *gradients]


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
    dq, dk, dv = (head_last(*x.shape, x, x.dtype) for x in (q, k, v))  # type: ignore[arg-type]
    extra = q.new_empty(0) if extra_logit is None else torch.empty_like(extra_logit)
    shaped = [torch.empty_like(x) if want else x.new_empty(0) for x, want in zip(values, wanted, strict=True)]
    return [dq, dk, dv, extra, *shaped]


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, values, extra_logit, table, query_position, key_position, seed, *rest = inputs
    ctx.set_materialize_grads(False)
    ctx.counts, ctx.rest, ctx.extra = (len(values), len(table)), rest, extra_logit is not None
    extra = [extra_logit] if ctx.extra else []
    ctx.save_for_backward(*output, q, k, v, query_position, key_position, seed, *values, *table, *extra)


def _differentiate(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> Any:
    output, lse, q, k, v, query_position, key_position, seed, *more = ctx.saved_tensors
    values_count, table_count = ctx.counts
    values, table, extra = more[:values_count], more[values_count:][:table_count], (more[-1] if ctx.extra else None)
    if d_output is None:
        d_output = torch.zeros_like(output)
    wanted = [value.requires_grad for value in values]
    dq, dk, dv, d_extra, *d_values = blocked_backward(
        d_output,
        d_lse,
        output,
        lse,
        wanted,
        q,
        k,
        v,
        values,
        extra,
        table,
        query_position,
        key_position,
        seed,
        *ctx.rest,
    )
    given = [d if want else None for d, want in zip(d_values, wanted, strict=True)]
    nothing = [[] if isinstance(x, list | tuple) and not x else None for x in ctx.rest]  # an empty list stays a list
    return dq, dk, dv, given, (d_extra if ctx.extra else None), [None] * table_count, None, None, None, *nothing


torch.library.register_autograd("attentune::blocked_forward", _differentiate, setup_context=_save)
