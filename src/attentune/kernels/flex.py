"""PyTorch FlexAttention, compiled: any elementwise score and any mask, without storing the scores.

On a CPU it has a forward pass only. It is never run uncompiled, which would be slower than the
reference; where no compiler is at hand it says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any, final

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attentune.kernels.kernel import Call, Cost, Reason, Request, Result
from attentune.kernels.layout import LayoutKind, without_padding
from attentune.kernels.visible_share import visible_share
from attentune.shapes import Tensor
from attentune.spec.positions import Positions
from attentune.spec.slots import Bias, ElementwiseScore, RelativePosition

# Numbers such as a cap are constants of the generated code. Every spec, on a CPU every length, is compiled apart; past
# the limit PyTorch would run unfused in silence, so that it is made high and an error.
LIMITS = {"specialize_float": True, "recompile_limit": 512, "fail_on_recompile_limit_hit": True}


@final
class Flex:
    """Compiled FlexAttention."""

    name = "flex"

    def supports(self, request: Request) -> tuple[Reason, ...]:
        spec, dims = request.spec, request.dims
        reasons: list[Reason] = []
        if spec.similarity.inner_product_scale(dims) is None:
            reasons.append(Reason(f"similarity={spec.similarity.kind}", "is not an inner product"))
        if isinstance(spec.position, RelativePosition):
            reasons.append(
                Reason(f"position={spec.position.kind}", "makes scores of the query itself and its distance")
            )
        if spec.normalizer.kind not in ("softmax", "softmax_off_by_one"):
            reasons.append(Reason(f"normalizer={spec.normalizer.kind}", "the kernel computes softmax only"))
        reasons += [
            Reason(f"{slot}={value.kind}", "needs the scores of other heads or whole rows")
            for slot in ("head_mix", "selector")
            if (value := getattr(spec, slot)) is not None
        ]
        if request.layout is LayoutKind.TREE:
            reasons.append(Reason("layout=tree", "which keys a query sees is not told by positions alone"))
        if request.dropout:
            reasons.append(Reason("dropout", "the kernel has none"))
        reasons += [
            Reason(f"wanted={output}", "the kernel gives output and log-sum-exp alone")
            for output in sorted(request.wanted - {"output", "lse"})
        ]
        if request.dtype is torch.float64:
            reasons.append(Reason("dtype=float64", "the kernel computes in float32"))
        if request.device == "cpu":
            if request.needs_grad:
                reasons.append(Reason("gradients", "FlexAttention has no backward pass on a CPU"))
            if spec.normalizer.kind == "softmax_off_by_one" or "lse" in request.wanted:
                part = "wanted=lse" if "lse" in request.wanted else f"normalizer={spec.normalizer.kind}"
                reasons.append(Reason(part, "FlexAttention gives no log-sum-exp on a CPU"))
            if not _compiler():
                reasons.append(Reason("compiler", "a C++ compiler is needed on a CPU, and none was found"))
        if min(request.query_length, request.key_length) < 1:
            reasons.append(Reason("length", "at least one query and one key are needed"))
        if dims.head_width != dims.value_width and request.device == "cpu":
            reasons.append(Reason(f"heads={spec.heads.kind}", "values must be as wide as keys on a CPU"))
        if any(score.kind == "residual_scores" for score in spec.scores):
            reasons.append(Reason("scores=residual_scores", "values must be as wide as keys"))
        return tuple(reasons)

    def cost(self, request: Request) -> Cost:
        d = request.dims
        operations = 2 * request.pairs * (d.head_width + d.value_width) * (3.5 if request.needs_grad else 1)
        size = torch.finfo(request.dtype).bits // 8
        moved = size * request.operand_elements * (3 if request.needs_grad else 1)
        return Cost(operations * visible_share(request), moved, "flex")

    def run(self, call: Call) -> Result:
        length, keys = call.q.shape[2], call.k.shape[2]
        rows = max(call.layout.query.index.shape[0], call.layout.key.index.shape[0])
        name = ("flex", call.spec.mask, length, keys)
        block_mask = call.layout.once(
            name,
            lambda: create_block_mask(_mask_mod(call), rows if rows > 1 else None, None, length, keys, call.q.device),
        )
        q, k, v = without_padding(call.layout, call.q, call.k, call.v)
        need_lse = "lse" in call.wanted or call.spec.normalizer.kind == "softmax_off_by_one"
        given = _run_compiled(
            q,
            k,
            v,
            score_mod=_score_mod(call),
            block_mask=block_mask,
            scale=call.spec.similarity.inner_product_scale(call.dims),
            enable_gqa=call.dims.groups != call.dims.heads,
            return_lse=need_lse,
        )
        o, lse = given if need_lse else (given, None)
        if call.spec.normalizer.kind == "softmax_off_by_one":  # one more exp(0) in the denominator
            assert lse is not None
            o = o * torch.sigmoid(lse)[..., None].to(o.dtype)
        seen = call.layout.visible(call.spec.mask).any(-1, keepdim=True)
        o = o.masked_fill(~seen, 0.0)
        if lse is None or "lse" not in call.wanted:
            return Result(o)
        return Result(o, {"lse": lse.masked_fill(~seen[..., 0], float("-inf"))})


def _at(positions: Positions, row: Tensor, place: Tensor) -> Positions:
    """The position of one token, addressed by the kernel's indices."""
    batch = positions.index.shape[0]
    return positions.map(lambda tensor: tensor[row if batch > 1 else 0, place])


def _mask_mod(call: Call) -> Callable[..., Tensor]:
    mask, layout = call.spec.mask, call.layout

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return layout.joined(mask, _at(layout.query, b, q), _at(layout.key, b, k))

    return visible


def _score_mod(call: Call) -> Callable[..., Tensor] | None:
    spec, dims, layout, params = call.spec, call.dims, call.layout, call.params
    elementwise = [(i, score) for i, score in enumerate(spec.scores) if isinstance(score, ElementwiseScore)]
    bias = spec.position if isinstance(spec.position, Bias) else None
    if bias is None and not elementwise:
        return None

    def modify(s: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        query, key = _at(layout.query, b, q), _at(layout.key, b, k)
        if bias is not None:
            s = s + bias.bias(params.get("position", ({},))[0], dims, query, key, h)
        for place, score in elementwise:
            s = score.modify(params["scores"][place], s, query, key, h)
        return s

    return modify


def _run_compiled(*operands: Tensor, **options: Any) -> Any:
    attend: Callable[..., Any] = flex_attention
    if torch.compiler.is_compiling():
        return attend(*operands, **options)
    # With more than ten open sizes, the code that PyTorch 2.13 generates for a CPU confuses their names: ks1 and ks15.
    dynamic = operands[0].device.type != "cpu"
    with torch._dynamo.config.patch(LIMITS):
        return _compiled(dynamic)(*operands, **options)


@cache
def _compiled(dynamic: bool) -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=dynamic)


@cache
def _compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
