"""What the watched processes do: try one contestant alone, and time those that passed beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from attentune.evaluation.speed.contestant import Contestant, Prepared
from attentune.evaluation.speed.gate import gate_gradient, verdict
from attentune.evaluation.speed.grid import Case
from attentune.evaluation.speed.memory import PeakMemory, held_bytes
from attentune.evaluation.speed.peers import contestants
from attentune.evaluation.speed.problem import Problem, pose
from attentune.evaluation.speed.processes import Say
from attentune.shapes import Tensor

PREPARE_SECONDS = 300.0  # imports, masks of all pairs
COMPILE_SECONDS = 300.0
GATE_SECONDS = 600.0
SLOW_SECONDS = 4.0  # a call that takes longer is its own warm-up, and is not made again to see its memory
SAMPLE_SECONDS = 0.01  # what is timed at once lasts at least so long: short calls are repeated
BUDGET_SECONDS = 3.0  # for all rounds of one contestant, of which there is one at least
MATRIX = {"cpu": 1536, "cuda": 8192}  # rows and columns of the product that sets the rate


def try_alone(say: Say, case: Case, name: str) -> dict[str, Any]:
    """One contestant: whether it computes the cell, its peak memory, and about how long it takes.

    `first_seconds` of the first call (which compiles), `seconds` of another, `peak_bytes` beyond operands and what was
    there before, `held_bytes` of masks and the like, `error` with `tensor` and `allowed`.
    """
    setting, limit = case.setting, case.setting.limit_seconds
    say("prepare", PREPARE_SECONDS)
    torch.set_num_threads(setting.threads)
    contestant = _named(case, name)
    problem = pose(case)
    prepared = contestant.prepare(problem)
    gradient = gate_gradient(problem) if case.backward else None
    say("first call", limit + (COMPILE_SECONDS if contestant.compiles else 0.0))
    with PeakMemory(setting.device) as memory:
        begun = time.perf_counter()
        found = _results(problem, prepared, gradient)
        _wait(setting.device)
        first = seconds = time.perf_counter() - begun
    if seconds < SLOW_SECONDS or contestant.compiles:
        say("call", 2 * limit)  # what is near the limit is measured and then told apart
        with PeakMemory(setting.device) as memory:
            begun = time.perf_counter()
            again = _call(problem, prepared, gradient)
            _wait(setting.device)
            seconds = time.perf_counter() - begun
        seconds = seconds if contestant.compiles else min(seconds, first)
        del again
    held = held_bytes(prepared.held())
    say("gate", GATE_SECONDS)
    judged = verdict(problem, found)
    return {
        "first_seconds": first,
        "seconds": seconds,
        "peak_bytes": None if memory.bytes is None else memory.bytes + held,
        "held_bytes": held,
        "error": judged.error,
        "tensor": judged.tensor,
        "allowed": judged.allowed,
    }


def time_together(say: Say, case: Case, expected: dict[str, float]) -> dict[str, Any]:
    """Seconds of every call of the contestants in `expected`, and of the matrix product, in interleaved rounds.

    `expected` tells about how long a call takes; what takes long is called less often, in the first rounds.
    """
    setting = case.setting
    say("prepare", PREPARE_SECONDS * max(len(expected), 1))
    torch.set_num_threads(setting.threads)
    problem = pose(case)
    generator = torch.Generator().manual_seed(3)
    gradient = None
    if case.backward:
        gradient = torch.randn(problem.q.shape, generator=generator).to(problem.q)
    turns: dict[str, Callable[[], object]] = {}
    for name in expected:
        contestant = _named(case, name)
        prepared = contestant.prepare(problem)
        turns[name] = _turn(problem, prepared, gradient)
        if expected[name] < SLOW_SECONDS or contestant.compiles:
            say(f"warm-up of {name}", 4 * setting.limit_seconds + (COMPILE_SECONDS if contestant.compiles else 0.0))
            turns[name]()
    product, operations = matrix_product(case)
    product()
    _wait(setting.device)
    samples: dict[str, list[float]] = {name: [] for name in expected}
    rates: list[float] = []
    for number in range(setting.rounds):
        say(f"round {number + 1}", 60.0 + 4 * sum(max(one, SAMPLE_SECONDS) for one in expected.values()))
        rates.append(operations / _sample(product, SAMPLE_SECONDS, setting.device))
        for name in _in_turn(list(expected), number):
            if number < rounds_for(expected[name], setting.rounds):
                samples[name].append(_sample(turns[name], expected[name], setting.device))
    return {"samples": samples, "matrix_rates": rates}


def rounds_for(seconds: float, rounds: int) -> int:
    """How often a contestant that takes so long is called: within its budget, at least once."""
    return max(min(rounds, int(BUDGET_SECONDS / max(seconds, 1e-9))), 1)


def matrix_product(case: Case) -> tuple[Callable[[], object], float]:
    """A large product in the cell's dtype, and its operations: what the machine can do at best."""
    size, device = MATRIX[case.setting.device], case.setting.device
    generator = torch.Generator().manual_seed(4)
    a, b = (torch.randn(size, size, generator=generator).to(device, case.dtype) for _ in range(2))
    c = torch.empty_like(a)
    return (lambda: torch.mm(a, b, out=c)), 2.0 * size**3


def _in_turn(names: Sequence[str], number: int) -> Sequence[str]:
    """Every round begins with another one, so that nobody always follows the same."""
    first = number % len(names) if names else 0
    return (*names[first:], *names[:first])


def _sample(call: Callable[[], object], expected: float, device: str) -> float:
    """Seconds of one call, as the mean of enough calls to be measured."""
    times = max(round(SAMPLE_SECONDS / max(expected, 1e-7)), 1)
    _wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (time.perf_counter() - begun) / times


def _turn(problem: Problem, prepared: Prepared, gradient: Tensor | None) -> Callable[[], object]:
    return lambda: _call(problem, prepared, gradient)


def _call(problem: Problem, prepared: Prepared, gradient: Tensor | None) -> tuple[dict[str, Tensor], Any]:
    """The outputs, and where a gradient is sent back those of all leaves; None for a leaf that nothing depends on."""
    with torch.no_grad() if gradient is None else nullcontext():
        outputs = prepared.forward()
    if gradient is None:
        return outputs, ()
    return outputs, torch.autograd.grad(outputs["output"], list(problem.leaves.values()), gradient, allow_unused=True)


def _results(problem: Problem, prepared: Prepared, gradient: Tensor | None) -> dict[str, Tensor]:
    """The outputs and gradients by name."""
    outputs, gradients = _call(problem, prepared, gradient)
    leaves = problem.leaves.items() if gradient is not None else ()
    given = {
        name: torch.zeros_like(leaf) if one is None else one
        for (name, leaf), one in zip(leaves, gradients, strict=True)
    }
    return {**{name: tensor.detach() for name, tensor in outputs.items()}, **given}


def _named(case: Case, name: str) -> Contestant:
    return next(one for one in contestants(case) if one.name == name)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
