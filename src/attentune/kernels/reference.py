"""Every attention, plainly: the oracle that all other kernels are held against.

Scores and weights exist as whole matrices, computed in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch.nn.functional import dropout

from attentune.kernels.kernel import Call, Cost, Reason, Request, Result
from attentune.kernels.layout import without_padding
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.slots import Bias, ElementwiseScore, RelativePosition


@final
class Reference:
    """All specs, layouts, dtypes and devices."""

    name = "reference"

    def supports(self, request: Request) -> tuple[Reason, ...]:
        return ()

    def cost(self, request: Request) -> Cost:
        d = request.dims
        times = 3 if request.needs_grad else 1
        operations = 2 * request.pairs * (d.head_width + d.value_width) * times
        size = torch.finfo(request.dtype).bits // 8
        return Cost(operations, times * (size * request.operand_elements + 4 * 4 * request.pairs), "reference")

    def run(self, call: Call) -> Result:
        return attend(call, lambda p: dropout(p, call.dropout) if call.dropout else p)


def attend(call: Call, drop: Callable[[Tensor], Tensor]) -> Result:
    """The attention of `call`, with every score and weight in memory at once; `drop` drops weights."""
    exact = torch.float64 if call.q.dtype is torch.float64 else torch.float32
    q, k, v = (tensor.to(exact) for tensor in without_padding(call.layout, call.q, call.k, call.v))

    s = similarities(call, q, k)  # [B H Q K]
    if call.spec.head_mix is not None:
        s = call.spec.head_mix.pre(own_params(call, "head_mix"), s)
    s = modify_scores(call, s, q, k)
    visible = visible_keys(call, q, k)
    p = call.spec.normalizer.weights(own_params(call, "normalizer"), s, visible)
    dropped = drop(p)
    if call.spec.head_mix is not None:
        dropped = call.spec.head_mix.post(own_params(call, "head_mix"), dropped)
        dropped = dropped.masked_fill(~visible.any(-1, keepdim=True), 0.0)
    o = torch.matmul(_by_group(call, dropped), v).view(*q.shape[:3], v.shape[-1])
    if isinstance(call.spec.position, RelativePosition):
        query, key = call.layout.query.as_queries(), call.layout.key.as_keys()
        beside = call.spec.position.values(own_params(call, "position"), call.dims, dropped, query, key)
        o = o if beside is None else o + beside
    return Result(o.to(call.q.dtype), _extra(call, s, p, visible))


def similarities(call: Call, q: Float[Tensor, "B H Q D"], k: Float[Tensor, "B G K D"]) -> Float[Tensor, "B H Q K"]:
    """s = f(q, k). An inner product takes the heads that share keys as more queries of one head: nothing is copied."""
    params = own_params(call, "similarity")
    if call.spec.similarity.inner_product_scale(call.dims) is None:
        return call.spec.similarity.scores(params, call.dims, q, _for_each_head(call, k))
    s = call.spec.similarity.scores(params, call.dims, _by_group(call, q), k)
    return s.view(*q.shape[:3], k.shape[2])


def _by_group(call: Call, x: Float[Tensor, "B H Q C"]) -> Float[Tensor, "B G gQ C"]:
    if call.dims.groups == call.dims.heads:
        return x
    together = call.dims.heads // call.dims.groups * x.shape[2]  # of no queries none, which -1 could not tell
    return x.reshape(x.shape[0], call.dims.groups, together, x.shape[-1])


def _for_each_head(call: Call, x: Float[Tensor, "B G K C"]) -> Float[Tensor, "B H K C"]:
    group = call.dims.heads // call.dims.groups
    return x.repeat_interleave(group, 1) if group > 1 else x


def modify_scores(call: Call, s: Float[Tensor, "B H Q K"], q: Tensor, k: Tensor) -> Float[Tensor, "B H Q K"]:
    """The position's bias and then the score values, in their order."""
    query, key = call.layout.query.as_queries(), call.layout.key.as_keys()
    head = torch.arange(call.dims.heads, device=s.device)[:, None, None]
    if isinstance(call.spec.position, Bias):
        s = s + call.spec.position.bias(own_params(call, "position"), call.dims, query, key, head).to(s.dtype)
    if isinstance(call.spec.position, RelativePosition):
        scale = call.spec.similarity.inner_product_scale(call.dims)
        assert scale is not None
        params, keys = own_params(call, "position"), _for_each_head(call, k)
        s = s + call.spec.position.scores(params, call.dims, q, keys, query, key, scale).to(s.dtype)
    for value, own in zip(call.spec.scores, call.params.get("scores", ()), strict=True):
        if isinstance(value, ElementwiseScore):
            s = value.modify(own, s, query, key, head)
    return s


def visible_keys(call: Call, q: Tensor, k: Tensor) -> Bool[Tensor, "..."]:
    """What the mask, the selector and the layout leave to be seen."""
    visible = call.layout.visible(call.spec.mask)
    if call.spec.selector is None:
        return visible
    query, key = call.layout.query.as_queries(), call.layout.key.as_keys()
    keys = _for_each_head(call, k)
    return visible & call.spec.selector.select(own_params(call, "selector"), q, keys, query, key, visible)


def own_params(call: Call, slot: str) -> dict[str, Tensor]:
    """The parameters of a slot that holds one value."""
    held = call.params.get(slot, ())
    return dict(held[0]) if held else {}


def _extra(call: Call, s: Tensor, p: Tensor, visible: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    extra: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    if "lse" in call.wanted:
        extra["lse"] = s.masked_fill(~visible, float("-inf")).logsumexp(-1)
    if "weights" in call.wanted:
        extra["weights"] = p
    if "column_mass" in call.wanted:
        extra["column_mass"] = p.sum(-2)
    if "entropy" in call.wanted:
        # -p log p is 0 at p = 0, and so shall be its gradient: entr(1) = 0 stands for it.
        extra["entropy"] = torch.special.entr(torch.where(p > 0, p, 1.0)).sum(-1)
    if "top_k" in call.wanted:
        best = p.topk(min(call.top, p.shape[-1]), -1)
        extra["top_k"] = (best.values, best.indices)
    return extra
