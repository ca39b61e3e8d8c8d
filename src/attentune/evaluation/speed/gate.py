"""Whether a contestant computed the cell: its output and gradients against the float64 reference.

Looking at all pairs in float64 takes longer than all contestants together. So a sample of the queries is looked at,
each with all its keys; the gradient that is sent back is zero on all other queries, which makes every gradient, of
whichever key, exactly computable from the sample. Statistics depend on all queries, and are summed band by band.

The error is relative and row by row: |found - right| / |right|, both as root mean squares over the last axis, the
largest of all rows. A single key too many or too few changes a row of n visible keys by about 1 / sqrt(n) of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import torch

from attentune.evaluation.speed.grid import Case
from attentune.evaluation.speed.problem import Problem
from attentune.kernels import Call
from attentune.kernels.layout import Layout, LayoutKind
from attentune.kernels.reference import Reference
from attentune.shapes import Float, Int, Tensor

SAMPLE = 48  # queries; rows of up to 4 times as many are compared whole
BAND = 256  # queries at a time where all are needed
# What rounding explains, with room: below 1 / sqrt(n) of what a wrong mask makes at every length that is measured.
ALLOWED = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 1.5e-2, torch.bfloat16: 6e-2}
# Rows smaller than this share of the whole tensor's size are held against that share. Gradients are sums of which much
# cancels, in a query's first rows all of it: what rounds is their terms, for which the size of the tensor stands.
FLOOR, FLOOR_OF_GRADIENTS = 1e-2, 1.0

Named = dict[str, Tensor]  # the output, statistics and gradients by name


@dataclass(frozen=True)
class Verdict:
    """The largest relative error, the tensor it is in, and what rounding explains."""

    error: float
    tensor: str
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # False for NaN


def sampled(case: Case) -> Int[Tensor, "S"]:
    """The queries that are looked at: the edges of tiles, chunks and windows, and some at random."""
    length = case.queries
    if length <= 4 * SAMPLE:
        return torch.arange(length)
    window = case.setting.window
    edges = (
        0,
        1,
        63,
        64,
        65,
        127,
        128,
        window - 1,
        window,
        window + 1,
        length // 2,
        length - 65,
        length - 2,
        length - 1,
    )
    chosen = {place for place in edges if 0 <= place < length}
    rest = sorted(set(range(length)) - chosen)
    return torch.tensor(sorted([*chosen, *Random(1).sample(rest, SAMPLE - len(chosen))]))


def gate_gradient(problem: Problem) -> Float[Tensor, "B H Q D"]:
    """What is sent back to be compared: standard normal on the sampled queries, zero elsewhere."""
    rows = sampled(problem.case)
    generator = torch.Generator().manual_seed(2)
    shape = (*problem.q.shape[:2], len(rows), problem.q.shape[3])
    gradient = torch.zeros(problem.q.shape)
    gradient[:, :, rows] = torch.randn(shape, generator=generator)
    return gradient.to(problem.q)


def verdict(problem: Problem, found: Named) -> Verdict:
    """How far `found` is from the truth."""
    right = truth(problem)
    rows = sampled(problem.case)
    worst = Verdict(0.0, "output", ALLOWED[problem.case.dtype])
    for name, exact in right.items():
        given = found[name].detach().cpu().double()
        if name in ("output", "entropy"):
            given = given[:, :, rows]
        error = relative_error(given, exact, FLOOR_OF_GRADIENTS if name in problem.leaves else FLOOR)
        if not error <= worst.error:
            worst = replace(worst, error=error, tensor=name)
    return worst


def relative_error(found: Tensor, right: Tensor, floor: float = FLOOR) -> float:
    """The largest error of any row, relative to the row; NaN where `found` holds one."""
    if found.shape != right.shape:
        raise ValueError(f"the shape is {tuple(found.shape)}, expected {tuple(right.shape)}")
    flat = right.dim() < 3  # a parameter: too few numbers to be told apart
    found, right = (tensor.reshape(1, -1) if flat else tensor for tensor in (found, right))
    size = right.square().mean(-1).sqrt()
    whole = float(right.square().mean().sqrt())
    scale = size.clamp(min=floor * whole if whole else 1.0)
    return float(((found - right).square().mean(-1).sqrt() / scale).max())


def truth(problem: Problem) -> Named:
    """The float64 reference: the output of the sampled queries, every gradient, or the statistics of all queries."""
    case = problem.case
    leaves = {name: tensor.detach().cpu().double() for name, tensor in problem.leaves.items()}
    if case.backward:
        leaves = {name: tensor.requires_grad_() for name, tensor in leaves.items()}
    with torch.set_grad_enabled(case.backward):
        rows = sampled(case)
        output = _of_rows(problem, leaves, rows)["output"]
    right = {"output": output.detach()}
    if case.statistics:
        bands = [_of_rows(problem, leaves, band) for band in torch.arange(case.queries).split(BAND)]
        right["entropy"] = torch.cat([band["entropy"] for band in bands], -1)[:, :, rows]
        right["column_mass"] = torch.stack([band["column_mass"] for band in bands]).sum(0)
    if case.backward:
        sent = gate_gradient(problem).cpu().double()[:, :, rows]
        gradients = torch.autograd.grad(output, list(leaves.values()), sent)
        right |= dict(zip(leaves, gradients, strict=True))
    return right


def _of_rows(problem: Problem, leaves: Named, rows: Int[Tensor, "S"]) -> Named:
    case, whole = problem.case, problem.layout
    query = whole.query.map(lambda tensor: tensor.cpu()[:, rows])
    layout = Layout(LayoutKind.CACHED, query, whole.key.map(lambda tensor: tensor.cpu()))
    params = {
        slot: [{name: leaves[f"{slot}.{place}.{name}"] for name in one} for place, one in enumerate(held)]
        for slot, held in problem.params.items()
    }
    wanted = frozenset({"output", "column_mass", "entropy"} if case.statistics else {"output"})
    call = Call(case.spec, case.dims, params, leaves["q"][:, :, rows], leaves["k"], leaves["v"], layout, wanted=wanted)
    result = Reference().run(call)
    named = {"output": result.output}
    for name, tensor in result.extra.items():
        assert isinstance(tensor, Tensor)
        named[name] = tensor
    return named
