"""From a spec to what a fused kernel computes: steps on each score, then one of three kinds of weights.

The tensors of the steps are the mechanisms' own mathematics, evaluated for each distance or each query, and carry
gradients back to their parameters. Nothing here looks at the kind of a mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from attentune.errors import SpecError
from attentune.kernels.kernel import Call
from attentune.kernels.layout import queries_without_padding
from attentune.kernels.reference import own_params
from attentune.kernels.tile_table import TileTable
from attentune.shapes import Float, Int, Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.masks import Mask
from attentune.spec.mechanism import Dims, Params
from attentune.spec.positions import Positions
from attentune.spec.score_steps import (
    AddByDistance,
    AddByQuery,
    LogAddExpByDistance,
    MultiplyByQuery,
    SoftCap,
    Step,
    StepForm,
)
from attentune.spec.slots import Bias, ElementwiseScore, RelativePosition

BY_DISTANCE = (StepForm.ADD_BY_DISTANCE, StepForm.LOG_ADD_EXP_BY_DISTANCE)
ROUNDED = 1024  # fixed tables are made for whole multiples of so many distances, so that decoding finds them again
PROBED = 2048  # positions at which a mask is asked whether it shows a query its own key


@dataclass(frozen=True)
class Lowered:
    """o = weights(steps(scale q.k)) v / divisor; `divisor` [B or 1, 1, Q, 1] where there is one."""

    q: Float[Tensor, "B H Q D"]
    scale: float
    steps: list[Step]
    kind: Literal["softmax", "sigmoid", "relu2"]
    extra_logit: Float[Tensor, "H"] | None
    divisor: Tensor | None


@lru_cache(maxsize=256)
def obstacle(spec: AttentionSpec, dims: Dims) -> str | None:
    """Why no fused kernel can compute the spec; None where one can."""
    if spec.similarity.inner_product_scale(dims) is None:
        return f"similarity={spec.similarity.kind} is not an inner product"
    if isinstance(spec.position, RelativePosition):
        return f"position={spec.position.kind} makes scores of the query itself and its distance"
    if isinstance(spec.position, Bias) and spec.position.step is None:
        return f"position={spec.position.kind} is no function of head and distance alone"
    for score in spec.scores:
        if not isinstance(score, ElementwiseScore):
            continue
        if score.step is None:
            return f"scores={score.kind} has none of the forms that fused kernels compute"
        if score.hides and not _shows_own_key(spec.mask):
            return f"scores={score.kind} hides keys, and the mask may leave a query nothing else"
    if spec.normalizer.fused is None:
        return f"normalizer={spec.normalizer.kind} needs whole rows of scores"
    for slot in ("head_mix", "selector"):
        if (value := getattr(spec, slot)) is not None:
            return f"{slot}={value.kind} needs the scores of other heads or whole rows"
    return None


def _shows_own_key(mask: Mask) -> bool:
    try:
        with torch.device("cpu"):  # wherever the model is being built
            places = Positions.arange(PROBED)
            return bool(mask.visible(places, places).all())
    except (SpecError, IndexError):  # a prefix that only the layout knows, a table of fewer positions
        return False


def lowered(call: Call, table: TileTable) -> Lowered:
    """The call in the form of a fused kernel; only where there is no `obstacle`."""
    spec, dims, q = call.spec, call.dims, call.q
    exact = torch.float64 if q.dtype is torch.float64 else torch.float32
    scale = spec.similarity.inner_product_scale(dims)
    assert scale is not None
    assert spec.normalizer.fused is not None
    steps: list[Step] = []
    if isinstance(spec.position, Bias):
        steps.append(_by_distance(call, table, spec.position, own_params(call, "position"), exact))
    for score, params in zip(spec.scores, call.params.get("scores", ()), strict=True):
        if not isinstance(score, ElementwiseScore):
            continue
        form = score.step
        if isinstance(form, SoftCap):
            steps.append(form)
        elif form in BY_DISTANCE:
            steps.append(_by_distance(call, table, score, params, exact))
        elif form is StepForm.LOG_ADD_EXP_BY_HEAD:
            steps.append(_by_head(call, score, params, exact))
        else:
            factor = score.query_factor(params) if score.is_factor else _by_query(call, score, params, exact)
            if isinstance(factor, float):
                if not steps:
                    scale *= factor
                    continue
                factor = q.new_full((1, 1, 1), factor, dtype=exact)
            assert factor is not None
            factor = factor[None, :, None] if factor.dim() == 1 else factor
            # Low precision would round the query once more.
            if not steps and q.dtype is exact:
                # The factor's gradient reads all queries, those at padding too.
                q = queries_without_padding(call.layout, q) * factor[..., None].to(exact)
            else:
                steps.append(MultiplyByQuery(_each_query(factor.to(exact), q.shape[2])))
    own, divisor = own_params(call, "normalizer"), None
    if spec.normalizer.fused != "softmax":
        count = table.visible_count().clamp(min=1).to(q.device, exact)[:, None]  # [B or 1, 1, Q]
        if spec.normalizer.fused == "relu2":
            divisor = count[..., None]
        elif (term := spec.normalizer.query_term(own, count)) is not None:
            steps.append(AddByQuery(_each_query(term, q.shape[2])))
    extra = None
    if spec.normalizer.has_extra_logit:
        extra = spec.normalizer.extra_logit(own, q.new_zeros(dims.heads, dtype=exact))
    return Lowered(q, scale, steps, spec.normalizer.fused, extra, divisor)


def _each_query(numbers: Float[Tensor, "rows heads some"], queries: int) -> Float[Tensor, "rows heads Q"]:
    return numbers.expand(-1, -1, queries).contiguous()


def _by_distance(
    call: Call, table: TileTable, value: Bias | ElementwiseScore, params: Params, dtype: torch.dtype
) -> AddByDistance | LogAddExpByDistance:
    first, last = table.first, table.last
    if not params:
        first, last = first // ROUNDED * ROUNDED, -(-last // ROUNDED) * ROUNDED
        numbers = _fixed_table(value, call.dims, first, last, dtype)
    else:
        numbers = _numbers(value, params, call.dims, first, last, dtype, call.q.device)
    if value.step is StepForm.LOG_ADD_EXP_BY_DISTANCE:
        return LogAddExpByDistance(numbers, first)
    return AddByDistance(numbers, first)


@lru_cache(maxsize=16)
def _fixed_table(value: Bias | ElementwiseScore, dims: Dims, first: int, last: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve training too
        return _numbers(value, {}, dims, first, last, dtype, torch.device("cpu"))


def _numbers(
    value: Bias | ElementwiseScore,
    params: Params,
    dims: Dims,
    first: int,
    last: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "heads distances"]:
    """b(h, d) of every distance d from `first` to `last`: between positions of which one is 0."""
    distance = torch.arange(first, last + 1, device=device)
    query, key = (places(side.clamp(min=0)[None]) for side in (distance, -distance))
    head = torch.arange(dims.heads, device=device)[:, None]
    if isinstance(value, Bias):
        numbers = value.bias(params, dims, query, key, head).to(dtype)
    else:
        numbers = value.modify(params, _neutral(value, dtype, device), query, key, head)
    return numbers.expand(torch.broadcast_shapes(numbers.shape, (1, len(distance)))).contiguous()


def _neutral(score: ElementwiseScore, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The score [1 1] that leaves b alone: 0 in s + b, minus infinity in log(exp s + exp b)."""
    return torch.full((1, 1), 0.0 if score.step is StepForm.ADD_BY_DISTANCE else float("-inf"), dtype=dtype).to(device)


def _by_head(call: Call, score: ElementwiseScore, params: Params, dtype: torch.dtype) -> LogAddExpByDistance:
    zero = torch.zeros(1, 1, dtype=torch.int64, device=call.q.device)
    head = torch.arange(call.dims.heads, device=call.q.device)[:, None]
    numbers = score.modify(params, _neutral(score, dtype, call.q.device), places(zero), places(zero), head)
    return LogAddExpByDistance(numbers.contiguous(), 0, constant=True)


def _by_query(
    call: Call, score: ElementwiseScore, params: Params, dtype: torch.dtype
) -> Float[Tensor, "rows heads some"]:
    """c(h, i) of every query: what becomes of a score of 1."""
    one = torch.ones(1, 1, 1, 1, dtype=dtype, device=call.q.device)
    head = torch.arange(call.dims.heads, device=call.q.device)[:, None, None]
    key = places(torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=call.q.device))
    return score.modify(params, one, call.layout.query.as_queries(), key, head)[..., 0]


def places(position: Int[Tensor, "..."]) -> Positions:
    """Tokens of one document at these positions."""
    return Positions(position, position)
