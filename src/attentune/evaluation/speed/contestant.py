"""Who takes part: Attentune's kernels here, its peers beside; all of them are asked alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from attentune.evaluation.speed.grid import Case
from attentune.evaluation.speed.problem import Problem
from attentune.kernels import KERNELS, Call, plan
from attentune.kernels.sdpa import needs_no_mask
from attentune.shapes import Tensor
from attentune.spec.slots import Bias

Forward = Callable[[], dict[str, Tensor]]


@dataclass
class Prepared:
    """A contestant that is ready for a problem.

    `forward` gives `output` [B H Q D], and where statistics are wanted `column_mass` [B H K] and `entropy` [B H Q].
    `held` is what it keeps from call to call, such as a mask: not timed, but counted as memory.
    """

    forward: Forward
    held: Callable[[], object] = lambda: ()


@runtime_checkable
class Contestant(Protocol):
    """One way to compute cells."""

    name: str
    ours: bool
    compiles: bool  # the first call also compiles

    def refusal(self, case: Case) -> str | None:
        """Why it cannot compute exactly what the cell asks for; None where it can."""

    def needs(self, case: Case) -> float:
        """Bytes beyond the operands that it needs for certain."""

    def prepare(self, problem: Problem) -> Prepared:
        """Masks and all else that does not depend on q, k, v and parameters."""


@final
class Own:
    """One of our kernels, asked by name."""

    ours = True

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.name = f"attentune {kernel}"
        self.compiles = kernel == "flex"

    def refusal(self, case: Case) -> str | None:
        return "; ".join(map(str, KERNELS[self.kernel].supports(case.request))) or None

    def needs(self, case: Case) -> float:
        heads = case.setting.batch * case.setting.heads
        if self.kernel == "reference":  # scores, what is visible of them, weights; and their gradients
            return case.pair_count * heads * max(case.element_bytes, 4) * (5 if case.backward else 3)
        if self.kernel == "sdpa" and not needs_no_mask(case.spec, case.layout_kind):
            each = case.element_bytes * case.setting.heads if isinstance(case.spec.position, Bias) else 1
            return float(case.pair_count * each)
        if self.kernel == "flex" and not case.decodes:
            return case.pair_count * 8.0  # positions of all pairs, before they are gathered to blocks
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        case, kernel, layout = problem.case, KERNELS[self.kernel], problem.fresh_layout()
        wanted = case.request.wanted

        def forward() -> dict[str, Tensor]:
            call = Call(case.spec, case.dims, problem.params, problem.q, problem.k, problem.v, layout, wanted=wanted)
            result = kernel.run(call)
            extra = {name: tensor for name, tensor in result.extra.items() if isinstance(tensor, Tensor)}
            return {"output": result.output, **extra}

        return Prepared(forward, lambda: layout._memo)


def picked(case: Case) -> str:
    """The name of the contestant that `auto` picks."""
    return Own(plan(case.request).choice).name


def own_contestants(case: Case) -> tuple[Own, ...]:
    """Our kernels that the setting names, and the one that `auto` picks in any case."""
    pick = plan(case.request).choice
    names = [name for name in KERNELS if name in case.setting.kernels or name == pick]
    return tuple(Own(name) for name in names)
