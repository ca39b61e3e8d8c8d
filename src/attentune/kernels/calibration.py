"""Measuring a machine, in well under a minute: each path through the kernels at a small and at a larger size."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

import torch

from attentune.kernels import native, query_tiles
from attentune.kernels.kernel import SHORT, Call, Cost, Kernel, Request, Result, of_short_rows
from attentune.kernels.layout import Layout, LayoutKind
from attentune.kernels.machine import PHASES, Machine, Speed
from attentune.mechanisms import attention
from attentune.spec.positions import Positions

HEADS, WIDTH = 8, 64  # of each head
SMALL, LARGE, CACHE = 64, 1536, 4096  # tokens; the larger of two caches
ROWS, FEWEST = 64, 8  # of many short rows, and tokens of the shortest
LAYERS = 6  # of a model that decodes: they share the layout of a step
BUDGET = 0.5  # seconds for each figure, of which the least time counts
CAUSAL, WINDOW = "heads=8, mask=causal", "heads=8, mask=causal & window(256)"


def calibrate(kernels: dict[str, Kernel], *, budget: float = BUDGET) -> Machine:
    """The rates of this CPU with the threads that PyTorch uses now. Flex is left out: it would compile for minutes."""
    a = torch.randn(1024, 1024)
    products = [least(lambda: torch.mm(a, a), budget)]
    big, other = torch.zeros(1 << 24), torch.zeros(1 << 24)
    copied = least(lambda: other.copy_(big), budget)
    speeds = {}
    for path, name, text, run in _paths(kernels):
        for phase in PHASES:
            speeds[f"{path} {phase}"] = _speed(kernels[name], text, phase, run, budget)
            if phase != "decode":
                speeds[f"{path}_short {phase}"] = _speed(kernels[name], text, phase, run, budget, rows=ROWS)
        products.append(least(lambda: torch.mm(a, a), budget / 4))
    fastest = min(products)
    return Machine(
        2 * 1024**3 / fastest,
        2 * 4 * big.numel() / copied,
        speeds,
        measured=True,
        spread=max(products) / fastest,
    )


def _paths(kernels: dict[str, Kernel]) -> list[tuple[str, str, str, Callable[[Call], Result]]]:
    """Path, kernel, attention, and what runs it."""
    paths: list[tuple[str, str, str, Callable[[Call], Result]]] = [
        ("sdpa", "sdpa", CAUSAL, kernels["sdpa"].run),
        ("sdpa_masked", "sdpa", WINDOW, kernels["sdpa"].run),
        ("query_tiles", "blocked", WINDOW, query_tiles.run),
        ("reference", "reference", CAUSAL, kernels["reference"].run),
    ]
    if native.available() is None:
        paths.append(("blocked", "blocked", WINDOW, kernels["blocked"].run))
    return paths


def _speed(
    kernel: Kernel, text: str, phase: str, run: Callable[[Call], Result], budget: float, *, rows: int = 1
) -> Speed:
    """Overhead and rate from two sizes; the path's own count of operations and pieces decides what a rate means."""
    sizes = (FEWEST, SHORT) if rows > 1 else (SMALL, CACHE) if phase == "decode" else (SMALL, LARGE)
    calls = LAYERS if phase == "decode" else 1
    seconds = [least(_work(text, phase, length, run, rows), budget) / calls for length in sizes]
    costs = [_cost(kernel, text, phase, length, rows, tiles=run is query_tiles.run) for length in sizes]
    # t = pieces * overhead + operations / rate, at both sizes; noise may leave less than nothing for either.
    (n, a), (m, b) = ((cost.pieces, cost.operations) for cost in costs)
    determinant = n * b - m * a
    overhead = (seconds[0] * b - seconds[1] * a) / determinant
    overhead = min(max(overhead, 1e-6), seconds[0] / n)
    rest = max(seconds[1] - m * overhead, 0.05 * seconds[1])
    return Speed(overhead, b / rest)


def _cost(kernel: Kernel, text: str, phase: str, length: int, rows: int, *, tiles: bool) -> Cost:
    spec = attention(text)
    dims = spec.heads.dims(width=HEADS * WIDTH, source_width=HEADS * WIDTH, depth=1, bias=False, cross=False)
    request = Request(
        spec,
        dims,
        rows,
        1 if phase == "decode" else length,
        length,
        LayoutKind.CACHED if phase == "decode" else LayoutKind.PLAIN,
        needs_grad=phase == "backward",
    )
    cost = query_tiles.cost(request) if tiles else kernel.cost(request)
    return of_short_rows(cost, request) if rows > 1 else cost


def _work(text: str, phase: str, length: int, run: Callable[[Call], Result], rows: int) -> Callable[[], object]:
    spec = attention(text)
    dims = spec.heads.dims(width=HEADS * WIDTH, source_width=HEADS * WIDTH, depth=1, bias=False, cross=False)
    queries = 1 if phase == "decode" else length
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(rows, tokens, HEADS, WIDTH, generator=generator).transpose(1, 2)  # as projections leave them
        for tokens in (queries, length, length)
    )
    if phase == "decode":
        k, v = k.contiguous(), v.contiguous()  # as caches hold them
    if phase == "backward":
        q, k, v = (tensor.requires_grad_() for tensor in (q, k, v))

    def work() -> object:
        # A layout of its own each time, as each step of training and decoding makes one.
        layout = Layout.plain(length)
        if phase == "decode":
            layout = Layout(LayoutKind.CACHED, Positions.arange(1, start=length - 1), layout.key)
        with torch.set_grad_enabled(phase == "backward"):
            for _ in range(LAYERS if phase == "decode" else 1):
                output = run(Call(spec, dims, {}, q, k, v, layout)).output
        return torch.autograd.grad(output.sum(), [q, k, v]) if phase == "backward" else output

    return work


def least(work: Callable[[], object], budget: float) -> float:
    """The least time of one run, in seconds, over `budget` seconds and at least three runs."""
    work()
    best, ends, runs = inf, time.perf_counter() + budget, 0
    while runs < 3 or time.perf_counter() < ends:
        begun = time.perf_counter()
        work()
        best, runs = min(best, time.perf_counter() - begun), runs + 1
    return best
