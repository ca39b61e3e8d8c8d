"""The peers that PyTorch brings: its fused attention with a flag or a dense mask, and attention in plain steps."""

from __future__ import annotations

from typing import final

import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.evaluation.speed.contestant import Prepared
from attentune.evaluation.speed.grid import CAP, Case
from attentune.evaluation.speed.problem import Problem
from attentune.mechanisms.t5 import T5
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.positions import Positions
from attentune.spec.slots import Bias

BAND = 256  # queries at a time while a mask is drawn
NO_MASK_GRADIENT = "PyTorch's CPU kernel gives a mask no gradient, and the bias is learned"
NO_STATISTICS = "gives the output alone"
NO_CAP = "cannot cap scores"


@final
class FusedByFlag:
    """`scaled_dot_product_attention` as it comes: no mask at all, or its causal flag."""

    name, ours, compiles = "sdpa", False, False

    def refusal(self, case: Case) -> str | None:
        if case.statistics:
            return NO_STATISTICS
        if case.cell.scores != "none":
            return "takes a bias or a cap only as a mask"
        all_seen = ("causal", "prefix") if case.decodes else ("full", "causal")
        if case.cell.mask not in all_seen:
            return "its flag says causal or nothing"
        return None

    def needs(self, case: Case) -> float:
        del case
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        causal = problem.case.cell.mask == "causal" and not problem.case.decodes
        q, k, v = problem.q, problem.k, problem.v
        return Prepared(lambda: {"output": scaled_dot_product_attention(q, k, v, is_causal=causal)})


@final
class FusedWithMask:
    """`scaled_dot_product_attention` with the mask, and the bias of each head, drawn beforehand as numbers to add."""

    name, ours, compiles = "sdpa_mask", False, False

    def refusal(self, case: Case) -> str | None:
        if case.statistics:
            return NO_STATISTICS
        if case.cell.scores == "soft_cap":
            return NO_CAP
        if case.cell.mask == "full" and case.cell.scores == "none":
            return "has nothing to mask"
        if case.cell.scores == "t5" and case.backward and case.setting.device == "cpu":
            return NO_MASK_GRADIENT
        return None

    def needs(self, case: Case) -> float:
        return _mask_bytes(case)

    def prepare(self, problem: Problem) -> Prepared:
        q, k, v = problem.q, problem.k, problem.v
        learns = learns_bias(problem.case)
        mask = None if learns else additive(problem)
        buckets = bucket_of_pairs(problem) if learns else None

        def forward() -> dict[str, Tensor]:
            given = mask
            if buckets is not None:
                given = learned_bias(problem, buckets).masked_fill(~seen_pairs(problem), float("-inf"))
            return {"output": scaled_dot_product_attention(q, k, v, attn_mask=given)}

        return Prepared(forward, lambda: (mask, buckets))


@final
class Naive:
    """Attention as the formula says it, one PyTorch operation after the other."""

    name, ours, compiles = "naive", False, False

    def refusal(self, case: Case) -> str | None:
        del case
        return None

    def needs(self, case: Case) -> float:
        matrix = case.pair_count * case.setting.batch * case.setting.heads * case.element_bytes
        fixed = _mask_bytes(case) if isinstance(case.spec.position, Bias) else case.pair_count
        return fixed + matrix * (4 if case.backward else 2)

    def prepare(self, problem: Problem) -> Prepared:
        case, q, k, v = problem.case, problem.q, problem.k, problem.v
        learns = learns_bias(case)
        mask = additive(problem) if isinstance(case.spec.position, Bias) and not learns else None
        hidden = problem.shared("hidden", lambda: ~seen_pairs(problem)) if mask is None else None
        buckets = bucket_of_pairs(problem) if learns else None

        def forward() -> dict[str, Tensor]:
            s = q @ k.transpose(-1, -2) * problem.scale
            if case.cell.scores == "soft_cap":
                s = CAP * torch.tanh(s / CAP)
            if buckets is not None:
                s = s + learned_bias(problem, buckets)
            s = s + mask if mask is not None else s
            s = s.masked_fill(hidden, float("-inf")) if hidden is not None else s
            p = s.softmax(-1)
            named = {"output": p @ v}
            if case.statistics:
                named |= {"column_mass": p.sum(-2), "entropy": torch.special.entr(p).sum(-1)}
            return named

        return Prepared(forward, lambda: (mask, hidden, buckets))


def learns_bias(case: Case) -> bool:
    """Whether the bias must be made of its table in every call, since the table gets a gradient."""
    return case.backward and isinstance(case.spec.position, T5)


def _mask_bytes(case: Case) -> float:
    each = case.setting.heads if isinstance(case.spec.position, Bias) else 1
    return float(case.pair_count * each * case.element_bytes)


def places(problem: Problem) -> tuple[Positions, Positions]:
    """Where the queries [Q 1] and the keys [K] stand."""
    return problem.layout.query.map(lambda t: t[0, :, None]), problem.layout.key.map(lambda t: t[0])


def seen_between(problem: Problem, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
    """Which of these pairs are visible, documents respected."""
    seen = problem.case.spec.mask.visible(query, key)
    if query.document is not None and key.document is not None:
        seen = seen & (query.document == key.document)
    return seen


def seen_pairs(problem: Problem) -> Bool[Tensor, "Q K"]:
    """Every pair: what a dense boolean mask holds."""
    return problem.shared("seen", lambda: _seen_pairs(problem))


def _seen_pairs(problem: Problem) -> Tensor:
    query, key = places(problem)
    bands = torch.arange(len(query.index)).split(BAND)
    return torch.cat([seen_between(problem, _band(query, at), key) for at in bands])


def _band(places: Positions, at: Tensor) -> Positions:
    return places.map(lambda tensor: tensor[at])


def additive_between(problem: Problem, query: Positions, key: Positions) -> Float[Tensor, "N Q K"]:
    """Bias where visible, minus infinity elsewhere; of each head where there is a bias, else once for all."""
    hidden = ~seen_between(problem, query, key)
    position, device = problem.case.spec.position, problem.q.device
    if not isinstance(position, Bias):
        made = torch.zeros(hidden.shape, device=device, dtype=problem.q.dtype)[None]
    else:
        head = torch.arange(problem.case.setting.heads, device=device)[:, None, None]
        params = {name: held.detach() for name, held in problem.params["position"][0].items()}
        made = position.bias(params, problem.case.dims, query, key, head).to(problem.q.dtype)
    return made.masked_fill(hidden, float("-inf"))


def additive(problem: Problem) -> Float[Tensor, "1 N Q K"]:
    """The whole of `additive_between`, drawn band by band."""
    return problem.shared("additive", lambda: _additive(problem))


def _additive(problem: Problem) -> Tensor:
    query, key = places(problem)
    count, heads = len(query.index), problem.case.setting.heads if isinstance(problem.case.spec.position, Bias) else 1
    mask = problem.q.new_empty(1, heads, count, len(key.index))
    for at in torch.arange(count).split(BAND):
        mask[0, :, at] = additive_between(problem, _band(query, at), key)
    return mask


def bucket_of_pairs(problem: Problem) -> Int[Tensor, "Q K"]:
    """The row of T5's table that each pair reads."""
    position = problem.case.spec.position
    assert isinstance(position, T5)
    query, key = places(problem)
    return problem.shared("buckets", lambda: position.bucket(query.position - key.position))


def learned_bias(problem: Problem, buckets: Int[Tensor, "Q K"]) -> Float[Tensor, "H Q K"]:
    """T5's bias, of which the table gets a gradient."""
    return problem.params["position"][0]["table"].t()[:, buckets]
