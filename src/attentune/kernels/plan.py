"""Choosing a kernel, and saying why the others were not chosen."""

from __future__ import annotations

from dataclasses import dataclass

from attentune.errors import KernelError, near
from attentune.kernels.blocked import Blocked
from attentune.kernels.flex import Flex
from attentune.kernels.kernel import Cost, Kernel, Reason, Request, of_short_rows
from attentune.kernels.machine import machine
from attentune.kernels.reference import Reference
from attentune.kernels.sdpa import SDPA

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (SDPA(), Blocked(), Flex(), Reference())}

COMPILE_SECONDS = 1.5  # a call's share of compiling flex on a CPU: half a minute for each length, used some 20 times


@dataclass(frozen=True)
class Plan:
    """The kernel that runs a request, and for every other one the reasons or the cost that spoke against it."""

    request: Request
    choice: str
    refusals: dict[str, tuple[Reason, ...]]
    costs: dict[str, Cost]
    seconds: dict[str, float]

    @property
    def kernel(self) -> Kernel:
        return KERNELS[self.choice]

    def way(self, name: str) -> str:
        """How the kernel `name`, where it has several ways, would compute the request, in brackets."""
        kernel = KERNELS[name]
        return f" ({kernel.way(self.request)})" if isinstance(kernel, Blocked) else ""

    @property
    def rates(self) -> str:
        """Where the predicted times come from."""
        if self.request.device != "cpu":
            return "built-in rates"
        measured = machine("cpu").measured
        return "this machine's measured rates" if measured else "built-in rates (attentune plan --calibrate measures)"

    def why_not(self, name: str) -> str:
        """One line on a kernel that was not chosen."""
        if name in self.refusals:
            return "; ".join(map(str, self.refusals[name]))
        if name == "flex" and self.request.device == "cpu":
            return "able, but compiling it anew for each length, as a CPU must, costs more than it saves"
        times = self.seconds[name] / max(self.seconds[self.choice], 1e-12)
        return f"able{self.way(name)}, but predicted {times:.2g}x the time"

    def explain(self) -> str:
        """The whole plan as text."""
        r, d, cost = self.request, self.request.dims, self.costs[self.choice]
        times = f"{self.seconds[self.choice] * 1e3:.3g} ms by {self.rates}"
        lines = [
            f"attention  {r.spec}",
            f"request    batch {r.batch}, {r.query_length} queries x {r.key_length} keys, "
            f"{d.heads} heads of {d.head_width} ({d.groups} for keys and values), {r.layout} layout, "
            f"{str(r.dtype).removeprefix('torch.')} on {r.device}, {'with' if r.needs_grad else 'without'} gradients"
            + (f", dropout {r.dropout:g}" if r.dropout else ""),
            f"kernel     {self.choice}{self.way(self.choice)}",
            f"predicted  {cost.operations:.3g} operations, {cost.bytes:.3g} bytes, {times}",
        ]
        lines += [f"not {name:<10} {self.why_not(name)}" for name in KERNELS if name != self.choice]
        return "\n".join(lines)


def plan(request: Request, kernel: str = "auto") -> Plan:
    """Choose: by name, or with `auto` the able kernel with the least predicted time.

    Asking by name for a kernel that cannot honour the request raises `KernelError` with all its reasons.
    """
    if kernel != "auto" and kernel not in KERNELS:
        raise KernelError(f"unknown kernel {kernel!r}; {near(kernel, [*KERNELS, 'auto'])}")
    refusals = {name: reasons for name, one in KERNELS.items() if (reasons := one.supports(request))}
    costs = {name: one.cost(request) for name, one in KERNELS.items() if name not in refusals}
    if request.short_rows:
        costs = {name: of_short_rows(cost, request) for name, cost in costs.items()}
    seconds = {name: _seconds(name, cost, request) for name, cost in costs.items()}
    if kernel in refusals:
        text = "; ".join(map(str, refusals[kernel]))
        raise KernelError(f"kernel {kernel} cannot compute this attention: {text}")
    choice = kernel if kernel != "auto" else min(seconds, key=lambda name: seconds[name])
    return Plan(request, choice, refusals, costs, seconds)


def _seconds(name: str, cost: Cost, request: Request) -> float:
    phase = "backward" if request.needs_grad else "decode" if request.query_length == 1 else "forward"
    seconds = machine(request.device).seconds(cost, phase)
    if name == "flex" and request.device == "cpu":
        seconds += COMPILE_SECONDS
    return seconds
