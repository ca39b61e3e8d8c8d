"""Our own kernel: it computes the visible tiles alone, keeps no scores, and recomputes them in the backward pass.

The compiled core does what comes down to steps on each score and a softmax, sigmoid or squared ReLU, on a CPU. Tiles of
queries in Python do everything else, all where there is no compiled core, and other devices. `way` says which and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from attentune.kernels import native, query_tiles
from attentune.kernels.kernel import Call, Cost, Reason, Request, Result
from attentune.kernels.layout import LayoutKind
from attentune.kernels.lowering import lowered, obstacle
from attentune.kernels.opaque import announce, run_opaquely
from attentune.kernels.tile_table import SIZE, tile_table
from attentune.kernels.visible_share import visible_share
from attentune.shapes import Int, Tensor
from attentune.spec.slots import Normalizer

STATISTICS = frozenset({"column_mass", "entropy", "top_k"})
LSE = frozenset({"lse"})
SETUP = 2  # tiles that a tile of queries takes the time of beside those it sees: seen on windows and causal rows
FEW = 4  # queries that are computed without tiles of them, as in decoding


@dataclass(frozen=True)
class Way:
    """Which of its two ways the kernel goes, and why not the compiled core."""

    native: bool
    why: str = ""

    def __str__(self) -> str:
        return "compiled core" if self.native else f"Python tiles: {self.why}"


@final
class Blocked:
    """Tiles: of the compiled core, or of queries in Python."""

    name = "blocked"

    def supports(self, request: Request) -> tuple[Reason, ...]:
        reasons = []
        if "weights" in request.wanted:
            reasons.append(Reason("wanted=weights", "a matrix of all weights is what this kernel never makes"))
        if request.layout is LayoutKind.TREE:
            reasons.append(Reason("layout=tree", "which keys a query sees is not told by positions alone"))
        selector = request.spec.selector
        if selector is not None and not selector.by_query:
            reasons.append(Reason(f"selector={selector.kind}", "does not say that each query chooses by itself"))
        return tuple(reasons)

    def way(self, request: Request) -> Way:
        """The compiled core, or Python tiles and why."""
        announce(self, request.spec)
        return _way(
            obstacle(request.spec, request.dims),
            device=request.device,
            statistics=_statistics(request.wanted, request.spec.normalizer),
            plain=not (request.needs_grad or request.dropout),
        )

    def cost(self, request: Request) -> Cost:
        if not self.way(request).native:
            return query_tiles.cost(request)
        d = request.dims
        # Backward: the scores once more, then the gradients of weights, values, queries and keys.
        operations = 2 * request.pairs * (d.head_width + d.value_width) * (3.5 if request.needs_grad else 1)
        size = torch.finfo(request.dtype).bits // 8
        share = visible_share(request)
        setup = SETUP * SIZE / max(request.key_length, 1) if request.query_length > FEW else 0.0
        touched = min(1.0, share * -(-request.query_length // SIZE))  # of the keys
        moved = size * (request.query_elements + request.key_elements * touched) * (3 if request.needs_grad else 1)
        return Cost(operations * (share + setup), moved, "blocked")

    def run(self, call: Call) -> Result:
        if torch.compiler.is_compiling():
            return run_opaquely(self, call, kept=LSE if call.spec.normalizer.fused == "softmax" else frozenset())
        differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (call.q, call.k, call.v))
        way = _way(
            obstacle(call.spec, call.dims),
            device=call.q.device.type,
            statistics=_statistics(call.wanted, call.spec.normalizer),
            plain=not (differentiable or call.dropout),
        )
        if not way.native or 0 in (call.q.shape[0], call.q.shape[2], call.k.shape[2]):
            return query_tiles.run(call)
        return _by_core(call)


def _statistics(wanted: frozenset[str], normalizer: Normalizer) -> str:
    """What is wanted beside the output that asks for more than the core always gives; empty for nothing.

    Terms that the core folds into the scores (sigmoid) or leaves to the output (squared ReLU) are not in them.
    """
    names = wanted & (STATISTICS if normalizer.fused == "softmax" else STATISTICS | {"lse"})
    if not names:
        return ""
    return "statistics" if normalizer.fused == "softmax" else f"statistics of normalizer={normalizer.kind}"


def _way(why: str | None, *, device: str, statistics: str, plain: bool) -> Way:
    if why is not None:
        return Way(False, why)
    if device != "cpu":
        return Way(False, "the compiled core runs on CPUs")
    if (missing := native.available()) is not None:
        return Way(False, missing.rule)
    if statistics and statistics != "statistics":
        return Way(False, statistics)
    if statistics and not plain:
        return Way(False, "statistics with gradients or dropout")
    return Way(True)


def _by_core(call: Call) -> Result:
    table = tile_table(call.layout, call.spec.mask)
    lowered_call = lowered(call, table)  # the core touches nothing that is hidden: padding may hold anything
    query, key = call.layout.once("int32 positions", lambda: _positions(call))
    known = None if call.known is None else _core_outputs(call.known, lowered_call.divisor)
    given = native.forward(
        lowered_call.q,
        call.k,
        call.v,
        scale=lowered_call.scale,
        steps=lowered_call.steps,
        extra_logit=lowered_call.extra_logit,
        kind=lowered_call.kind,
        table=table,
        query_position=query,
        key_position=key,
        dropout=call.dropout,
        seed=torch.randint(1 << 62, ()) if call.dropout else torch.zeros((), dtype=torch.int64),
        wanted=call.wanted & STATISTICS,
        top=min(call.top, call.k.shape[2]),
        known=known,
    )
    output = given.output
    if lowered_call.divisor is not None:
        output = (output / lowered_call.divisor).to(output.dtype)
    extra: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    if "lse" in call.wanted:
        extra["lse"] = given.key_lse
    for name in call.wanted & STATISTICS:
        extra[name] = getattr(given, name)
    return Result(output, extra)


def _core_outputs(known: Result, divisor: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the core gave: its output and the log-sum-exp, which only a softmax has."""
    output, lse = known.output, known.extra.get("lse")
    if lse is None:
        exact = torch.float64 if output.dtype is torch.float64 else torch.float32
        lse = torch.full(output.shape[:3], float("nan"), dtype=exact)
    assert isinstance(lse, Tensor)
    return output if divisor is None else (output * divisor).to(output.dtype), lse


def _positions(call: Call) -> tuple[Int[Tensor, "rows Q"], Int[Tensor, "rows K"]]:
    query, key = call.layout.query.position, call.layout.key.position
    rows = max(query.shape[0], key.shape[0])
    return tuple(side.to(torch.int32).expand(rows, -1).contiguous() for side in (query, key))  # type: ignore[return-value]
