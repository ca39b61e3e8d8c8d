"""PyTorch's fused `scaled_dot_product_attention`, for the specs that reduce to it.

Constant scales go into `scale`, temperatures into q, masks and fixed biases into one additive mask,
softmax-off-by-one into one extra key whose score and value are zero. Whatever else a spec asks for
is refused. So is what would leave the fused path on a CPU for PyTorch's own unfused one: dropout,
a mask that needs a gradient, values of another width than keys.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from attentune.kernels.kernel import Call, Cost, Reason, Request, Result
from attentune.kernels.layout import LayoutKind, without_padding
from attentune.shapes import Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.slots import Bias, ElementwiseScore, RelativePosition

EDGE = 230  # keys beyond half of them that a causal query costs on a CPU: blocks are large, and those on the edge whole


@final
class SDPA:
    """Fused attention of PyTorch."""

    name = "sdpa"

    def supports(self, request: Request) -> tuple[Reason, ...]:
        spec, dims = request.spec, request.dims
        reasons: list[Reason] = []
        if spec.similarity.inner_product_scale(dims) is None:
            reasons.append(Reason(f"similarity={spec.similarity.kind}", "is not an inner product"))
        if isinstance(spec.position, RelativePosition):
            reasons.append(
                Reason(f"position={spec.position.kind}", "makes scores of the query itself and its distance")
            )
        reasons += [
            Reason(f"scores={score.kind}", "changes each score inside the kernel")
            for score in spec.scores
            if isinstance(score, ElementwiseScore) and not _folds(spec, score)
        ]
        if spec.normalizer.kind not in ("softmax", "softmax_off_by_one"):
            reasons.append(Reason(f"normalizer={spec.normalizer.kind}", "the kernel computes softmax only"))
        reasons += [
            Reason(f"{slot}={value.kind}", "needs the scores, which the kernel never stores")
            for slot in ("head_mix", "selector")
            if (value := getattr(spec, slot)) is not None
        ]
        reasons += [
            Reason(f"wanted={output}", "the kernel gives the output alone")
            for output in sorted(request.wanted - {"output"})
        ]
        if request.device == "cpu":
            if request.dropout:
                reasons.append(Reason("dropout", "PyTorch's CPU kernel has none"))
            if isinstance(spec.position, Bias) and spec.position.parameters(dims) and request.needs_grad:
                reasons.append(
                    Reason(f"position={spec.position.kind}", "PyTorch's CPU kernel gives a mask no gradient")
                )
            if dims.head_width != dims.value_width:
                reasons.append(Reason(f"heads={spec.heads.kind}", "PyTorch's CPU kernel needs values as wide as keys"))
        carried = any(score.kind == "residual_scores" for score in spec.scores)
        if carried and request.device == "cpu":
            reasons.append(Reason("scores=residual_scores", "PyTorch's CPU kernel needs values as wide as keys"))
        return tuple(reasons)

    def cost(self, request: Request) -> Cost:
        d = request.dims
        forward = 2.0 * request.pairs * (d.head_width + d.value_width)
        share = 1.0
        if needs_no_mask(request.spec, request.layout) and request.spec.mask.kind == "causal":
            share = min(0.5 + EDGE / max(request.key_length, 1), 1.0)
        operations = forward * share * (3.5 if request.needs_grad else 1)
        size = torch.finfo(request.dtype).bits // 8
        moved = float(size * request.operand_elements * (3 if request.needs_grad else 1))
        if not needs_no_mask(request.spec, request.layout):
            per_head = isinstance(request.spec.position, Bias)
            moved += size * request.pairs / (1 if per_head else request.dims.heads)
        return Cost(operations, moved, "sdpa" if needs_no_mask(request.spec, request.layout) else "sdpa_masked")

    def run(self, call: Call) -> Result:
        if call.q.device.type == "cpu" and call.q.dtype.itemsize < 4 and torch.is_grad_enabled():
            # PyTorch's backward pass of 16 bits takes 20 times as long as that of 32 (2.13: 146 ms against 7.5).
            exact = replace(call, q=call.q.float(), k=call.k.float(), v=call.v.float())
            with torch.autocast("cpu", enabled=False):
                return Result(self._run(exact).output.to(call.q.dtype))
        return self._run(call)

    def _run(self, call: Call) -> Result:
        spec = call.spec
        q, k, v = without_padding(call.layout, call.q, call.k, call.v)
        scale = spec.similarity.inner_product_scale(call.dims)
        assert scale is not None
        for score, params in zip(spec.scores, call.params.get("scores", ()), strict=True):
            factor = score.query_factor(params) if isinstance(score, ElementwiseScore) else None
            if isinstance(factor, float):
                scale *= factor
            elif factor is not None:
                q = q * factor[:, None, None].to(q.dtype)
        grouped = call.dims.groups != call.dims.heads
        plain = needs_no_mask(spec, call.layout.kind)
        if plain or _sees_everything(call):
            causal = plain and spec.mask.kind == "causal"
            o = scaled_dot_product_attention(
                q, k, v, is_causal=causal, dropout_p=call.dropout, scale=scale, enable_gqa=grouped
            )
            return Result(o)
        if isinstance(spec.position, Bias) and spec.position.parameters(call.dims):
            mask, seen = _mask(call)  # every layer has a bias of its own
        else:
            name = ("sdpa", spec.mask, spec.position, spec.normalizer.kind, q.dtype, call.dims.heads)
            mask, seen = call.layout.once(name, lambda: _mask(call))
        if spec.normalizer.kind == "softmax_off_by_one":
            k, v = pad(k, (0, 0, 0, 1)), pad(v, (0, 0, 0, 1))
        o = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=call.dropout, scale=scale, enable_gqa=grouped
        )
        # Looking at numbers would break a graph, and make an accelerator wait.
        can_look = o.device.type == "cpu" and not torch.compiler.is_compiling()
        if can_look and _all_see_something(call, seen):
            return Result(o)
        return Result(o.masked_fill(~seen, 0.0))


def needs_no_mask(spec: AttentionSpec, layout: LayoutKind) -> bool:
    """Whether the kernel's own causal flag, or no mask at all, says everything."""
    if not _masks_alone(spec):
        return False
    return (spec.mask.kind == "full" and layout is LayoutKind.PLAIN) or (
        spec.mask.kind == "causal" and layout is LayoutKind.PLAIN
    )


def _masks_alone(spec: AttentionSpec) -> bool:
    """Whether the additive mask would say nothing but which pairs are visible."""
    return not isinstance(spec.position, Bias) and spec.normalizer.kind == "softmax"


def _sees_everything(call: Call) -> bool:
    """Whether every query sees every key, as the newest token behind a cache; only where looking costs no waiting."""
    spec = call.spec
    if call.q.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not _masks_alone(spec):
        return False
    return bool(call.layout.once(("all visible", spec.mask), lambda: bool(call.layout.visible(spec.mask).all())))


def _all_see_something(call: Call, seen: Tensor) -> bool:
    """Whether nothing need be set to zero: every query sees a key, but for padding that holds finite numbers anyway."""
    layout, valid = call.layout, call.layout.query.valid
    passing = "query" in layout.finite and valid is not None

    def look() -> bool:
        return bool((seen | ~valid[:, None, :, None]).all() if passing and valid is not None else seen.all())

    return bool(layout.once(("all see something", call.spec.mask, passing), look))


def _folds(spec: AttentionSpec, score: ElementwiseScore) -> bool:
    """Whether the score is a factor that q can carry: no bias has been added to s before it."""
    return score.is_factor and not isinstance(spec.position, Bias)


def _mask(call: Call) -> tuple[Tensor, Tensor]:
    """What is added to the scores [B or 1, H or 1, Q, K], and which rows see anything [B or 1, 1, Q, 1]."""
    visible = call.layout.visible(call.spec.mask)
    seen = visible.any(-1, keepdim=True)
    extra = call.spec.normalizer.kind == "softmax_off_by_one"
    if isinstance(call.spec.position, Bias):
        query, key = call.layout.query.as_queries(), call.layout.key.as_keys()
        head = torch.arange(call.dims.heads, device=call.q.device)[:, None, None]
        params = call.params.get("position", ({},))[0]
        exact = torch.float32 if call.q.device.type == "cpu" and call.q.dtype.itemsize < 4 else call.q.dtype
        bias = call.spec.position.bias(params, call.dims, query, key, head).to(exact)
        mask = bias.expand(torch.broadcast_shapes(bias.shape, visible.shape))
        mask = mask.masked_fill(~(visible | ~seen), float("-inf"))
        return (pad(mask, (0, 1)) if extra else mask), seen
    visible = visible | ~seen  # a row that sees nothing computes something finite, which is then set to zero
    return (pad(visible, (0, 1), value=True) if extra else visible), seen
