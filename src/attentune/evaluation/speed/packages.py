"""Peers from other packages: local-attention, x-transformers, and the Longformer of transformers.

They are imported when they are asked, and a missing one is refused with what to install.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, final

import torch
from torch import nn

from attentune.evaluation.speed.contestant import Prepared
from attentune.evaluation.speed.dense import (
    NO_STATISTICS,
    additive,
    bucket_of_pairs,
    learned_bias,
    learns_bias,
    seen_pairs,
)
from attentune.evaluation.speed.grid import CAP, Case
from attentune.evaluation.speed.problem import Problem
from attentune.shapes import Float, Tensor
from attentune.spec.positions import Positions
from attentune.spec.slots import Bias


def _missing(module: str) -> str | None:
    if find_spec(module) is not None:
        return None
    return f"is not installed: pip install 'attentune[bench]' brings {module.replace('_', '-')}"


@final
class LocalAttentionPackage:
    """`LocalAttention` of the package local-attention, in its exact form.

    It shows `window_size * look_backward` keys before the query's own: 255 are 3 buckets of 85, with little to spare.
    """

    name, ours, compiles = "local_attention", False, False

    def refusal(self, case: Case) -> str | None:
        if case.statistics:
            return NO_STATISTICS
        if case.cell.mask not in ("window", "symmetric"):
            return "has windows alone"
        if case.cell.scores == "soft_cap":
            return "cannot cap scores"
        if case.decodes:
            return "computes whole rows"
        if case.setting.window < 2:
            return "its window holds a key before the query's own"
        if case.cell.mask == "symmetric" and case.cell.length % _bucket(case)[0]:
            return f"shows its own padding where the length is no multiple of {_bucket(case)[0]}"
        return _missing("local_attention")

    def needs(self, case: Case) -> float:
        del case
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        from local_attention import LocalAttention

        size, buckets = _bucket(problem.case)
        forward_buckets = buckets if problem.case.cell.mask == "symmetric" else 0
        attend = LocalAttention(
            size,
            causal=not forward_buckets,
            look_backward=buckets,
            look_forward=forward_buckets,
            exact_windowsize=True,
            autopad=True,
            use_rotary_pos_emb=False,
            scale=problem.scale,
        ).eval()
        bias = _bias_of_distance(problem, size, size * (1 + buckets + forward_buckets), size * buckets)

        def forward() -> dict[str, Tensor]:
            return {"output": attend(problem.q, problem.k, problem.v, attn_bias=bias())}

        return Prepared(forward)


def _bucket(case: Case) -> tuple[int, int]:
    """Tokens of a bucket, and buckets that are looked at before it."""
    symmetric = case.cell.mask == "symmetric"
    reach = (case.symmetric_window - 1) // 2 if symmetric else case.setting.window - 1
    sizes = [size for size in range(1, reach // 2 + 1) if reach % size == 0 and 4 * size >= reach]
    size = max(sizes, default=reach)
    return size, reach // size


def _bias_of_distance(problem: Problem, queries: int, keys: int, before: int) -> Callable[[], Tensor | None]:
    """The bias [H, queries, keys] of a bucket, whose first key stands `before` places before its first query."""
    position, device = problem.case.spec.position, problem.q.device
    if not isinstance(position, Bias):
        return lambda: None
    places = torch.arange(max(queries, keys) + before, device=device)
    query = Positions(places[:queries, None], places[:queries, None] + before)
    key = Positions(places[:keys], places[:keys])
    head = torch.arange(problem.case.setting.heads, device=device)[:, None, None]
    dims, params, dtype = problem.case.dims, problem.params["position"][0], problem.q.dtype

    def made() -> Float[Tensor, "H Q K"]:
        return position.bias(params, dims, query, key, head).to(dtype)

    if position.parameters(dims):
        return made
    fixed = made()
    return lambda: fixed


@final
class XTransformers:
    """`Attend` of x-transformers: its flash path, or its plain one for what flash cannot do."""

    name, ours, compiles = "x_transformers", False, False

    def refusal(self, case: Case) -> str | None:
        return NO_STATISTICS if case.statistics else _missing("x_transformers")

    def needs(self, case: Case) -> float:
        heads = case.setting.batch * case.setting.heads
        if case.cell.mask in ("full", "causal") and case.cell.scores == "none":
            return 0.0
        matrices = (1 if _flash(case) else 4) + (2 if case.backward and not _flash(case) else 0)
        return case.pair_count * heads * case.element_bytes * matrices

    def prepare(self, problem: Problem) -> Prepared:
        from x_transformers.attend import Attend

        case = problem.case
        causal = case.cell.mask == "causal"
        attend = Attend(
            causal=causal,
            flash=_flash(case),
            scale=problem.scale,
            softclamp_logits=case.cell.scores == "soft_cap",
            logit_softclamp_value=CAP,
        ).eval()
        mask = None if causal or case.cell.mask == "full" else seen_pairs(problem)[None, None]
        learns = learns_bias(case)
        buckets = bucket_of_pairs(problem) if learns else None
        fixed = additive(problem) if isinstance(case.spec.position, Bias) and not learns else None

        def forward() -> dict[str, Tensor]:
            bias = fixed if buckets is None else learned_bias(problem, buckets)[None]
            output, _ = attend(problem.q, problem.k, problem.v, mask=mask, attn_bias=bias)
            return {"output": output}

        return Prepared(forward, lambda: (mask, buckets, fixed))


def _flash(case: Case) -> bool:
    """Its flash path caps no scores, and PyTorch's CPU kernel gives a mask no gradient."""
    return case.cell.scores != "soft_cap" and not learns_bias(case)


@final
class Longformer:
    """`LongformerSelfAttention` of transformers, its projections replaced by the given q, k and v."""

    name, ours, compiles = "longformer", False, False

    def refusal(self, case: Case) -> str | None:
        if case.statistics:
            return NO_STATISTICS
        if case.cell.mask != "symmetric":
            return "its window shows as many keys after the query as before it"
        if case.cell.scores != "none":
            return "neither biases nor caps scores"
        reach = case.symmetric_window - 1
        if reach < 2 or case.cell.length % reach:
            return f"the length must be a multiple of {reach}, twice its reach to one side"
        return _missing("transformers")

    def needs(self, case: Case) -> float:
        del case
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        from transformers import LongformerConfig
        from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

        setting, case = problem.case.setting, problem.case
        width = setting.heads * setting.head_width
        config = LongformerConfig(
            hidden_size=width,
            num_attention_heads=setting.heads,
            num_hidden_layers=1,
            attention_window=[case.symmetric_window - 1],
            attention_probs_dropout_prob=0.0,
        )
        untyped: Any = LongformerSelfAttention
        module = untyped(config, layer_id=0).eval()
        module.query, module.key, module.value = (_Given(tensor) for tensor in (problem.q, problem.k, problem.v))
        nothing = torch.zeros(setting.batch, case.cell.length, device=problem.q.device, dtype=problem.q.dtype)
        hidden = nothing[..., None].expand(-1, -1, width)  # only its shape is read
        no = nothing > 0

        def forward() -> dict[str, Tensor]:
            (output,) = module(
                hidden, attention_mask=nothing, is_index_masked=no, is_index_global_attn=no, is_global_attn=False
            )
            return {"output": output.unflatten(-1, (setting.heads, setting.head_width)).transpose(1, 2)}

        return Prepared(forward)


class _Given(nn.Module):
    """Stands where a projection stood: [B H T D] as [T B E], in memory of its own, which Longformer writes into."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self._held: list[Any] = [tensor]  # not registered: it is no parameter of the module

    def forward(self, hidden: Tensor) -> Float[Tensor, "T B E"]:
        del hidden
        tensor: Tensor = self._held[0]
        return tensor.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format).flatten(2)
