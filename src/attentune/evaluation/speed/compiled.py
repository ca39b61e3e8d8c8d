"""Compiled FlexAttention, written by hand as its documentation shows: a mask, a score, and blocks known beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import final

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from attentune.evaluation.speed.contestant import Prepared
from attentune.evaluation.speed.grid import BLOCK, CAP, Case
from attentune.evaluation.speed.problem import Problem
from attentune.kernels.flex import SIDE, block_states
from attentune.mechanisms.alibi import slopes
from attentune.mechanisms.t5 import T5
from attentune.shapes import Tensor
from attentune.spec.tiles import TileState, row_tiles

Modifier = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Scorer = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@final
class CompiledFlex:
    """`torch.compile(flex_attention)`."""

    name, ours, compiles = "flex", False, True

    def refusal(self, case: Case) -> str | None:
        if case.statistics:
            return "gives the output alone"
        if case.setting.device == "cpu" and case.backward:
            return "FlexAttention has no backward pass on a CPU"
        if case.dtype is torch.float64:
            return "computes in float32"
        if case.setting.device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            return "needs a C++ compiler, and none was found"
        return None

    def needs(self, case: Case) -> float:
        del case
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        q, k, v = problem.q, problem.k, problem.v
        blocks = None if problem.case.cell.mask == "full" else block_mask(problem)
        score, tables = score_mod(problem)
        attend = torch.compile(flex_attention, dynamic=False)

        def forward() -> dict[str, Tensor]:
            output = attend(q, k, v, score_mod=score, block_mask=blocks)
            assert isinstance(output, Tensor)
            return {"output": output}

        return Prepared(forward, lambda: (blocks, tables))


def block_mask(problem: Problem) -> BlockMask:
    """The blocks that hold anything visible; those that are wholly visible are not masked at all."""
    query, key = (side.row(0) for side in (problem.layout.query, problem.layout.key))
    states = row_tiles(problem.case.spec.mask, query, key, tile=(SIDE, SIDE))
    return block_states(states[None], mask_mod(problem), (problem.case.queries, problem.case.cell.length))


def mask_mod(problem: Problem) -> Modifier:
    """Which pairs are visible."""
    case, device = problem.case, problem.q.device
    window, length = case.setting.window, case.cell.length
    first = length - 1 if case.decodes else 0  # the position of query 0
    quarter, sides = max(length // 4, 1), (case.symmetric_window - 1) // 2
    if case.cell.mask == "packed":
        of_query, of_key = problem.layout.query.document, problem.layout.key.document
        assert of_query is not None and of_key is not None
        asking, asked = of_query[0].clone(), of_key[0].clone()
        return lambda b, h, q, k: (q + first >= k) & (asking[q] == asked[k])
    if case.cell.mask == "bigbird":
        query, key = (side.row(0) for side in (problem.layout.query, problem.layout.key))
        table = row_tiles(case.spec.mask, query, key, tile=(BLOCK, BLOCK)).to(device) != TileState.HIDDEN
        return lambda b, h, q, k: table[q // BLOCK, k // BLOCK]  # whole blocks, all of them
    plain: dict[str, Modifier] = {
        "causal": lambda b, h, q, k: q + first >= k,
        "window": lambda b, h, q, k: (q + first >= k) & (q + first - k < window),
        "sinks": lambda b, h, q, k: (q + first >= k) & ((q + first - k < window) | (k < 4)),
        "prefix": lambda b, h, q, k: (q + first >= k) | (k < quarter),
        "symmetric": lambda b, h, q, k: (q - k).abs() <= sides,
    }
    return plain[case.cell.mask]


def score_mod(problem: Problem) -> tuple[Scorer | None, Tensor | None]:
    """What becomes of a score, and the table that it reads."""
    case, device = problem.case, problem.q.device
    first = case.cell.length - 1 if case.decodes else 0
    if case.cell.scores == "alibi":
        slope = torch.tensor(slopes(case.setting.heads), device=device, dtype=torch.float32)
        return (lambda s, b, h, q, k: s - slope[h] * (q + first - k).abs()), slope
    if case.cell.scores == "soft_cap":
        return (lambda s, b, h, q, k: CAP * torch.tanh(s / CAP)), None
    position = case.spec.position
    if isinstance(position, T5):
        reach = case.cell.length - 1
        distances = torch.arange(-reach, reach + 1, device=device)
        table = problem.params["position"][0]["table"].t()[:, position.bucket(distances)].contiguous()
        return (lambda s, b, h, q, k: s + table[h, q + first - k + reach]), table
    return None, None
