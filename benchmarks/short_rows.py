"""Attention of many short rows, as tasks on sentences have them: each kernel, on padded rows, forward and backward.

    OMP_NUM_THREADS=1 python benchmarks/short_rows.py [--rounds 7]

Prints medians in milliseconds of the thread's own time, the kernels taking turns; each call is timed on a layout whose
tables are made, as all layers but the first find it. `!` marks where `auto` is not within 10 % of the best.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from attentune.kernels import KERNELS, Layout
from attentune.kernels.kernel import Call
from attentune.layers.attention import Attention
from attentune.mechanisms import attention

HEADS = 8
SIZES = [(32, 8, 32), (118, 14, 32), (118, 14, 64), (512, 14, 32), (118, 32, 32), (32, 64, 64), (118, 64, 64)]


def measure(rows: int, tokens: int, width: int, dtype: torch.dtype, mask: str, rounds: int) -> str:
    """One line of the table."""
    spec = attention(f"heads={HEADS}, mask={mask}")
    module = Attention(spec, width=HEADS * width)
    lengths = torch.randint(max(tokens - 2, 1), tokens + 1, (rows,))
    lengths[0] = tokens
    layout = Layout.padded(torch.arange(tokens) < lengths[:, None]).with_finite("query", "key")
    projected = torch.randn(rows, tokens, 3 * HEADS * width, dtype=dtype).requires_grad_()
    given = torch.randn(rows, tokens, HEADS * width, dtype=dtype)
    names = ("sdpa", "blocked", "reference")
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for turn in range(rounds + 1):
        for name in names:
            q, k, v = (x.unflatten(-1, (HEADS, width)).transpose(1, 2) for x in projected.split(HEADS * width, -1))
            begun = time.thread_time()
            output = KERNELS[name].run(Call(spec, module.dims, {}, q, k, v, layout)).output
            computed = time.thread_time()
            output = output.transpose(1, 2).flatten(2)
            projected.grad, asked = None, time.thread_time()
            output.backward(given)
            if turn:
                times[name][0].append(computed - begun)
                times[name][1].append(time.thread_time() - asked)
    took = {name: [1e3 * statistics.median(one) for one in both] for name, both in times.items()}
    chosen = module.plans[layout.kind, True, False, -2].choice
    far = "!" if sum(took[chosen]) > 1.1 * min(map(sum, took.values())) else ""
    cells = "  ".join(f"{name} {there:6.2f} + {back:6.2f}" for name, (there, back) in took.items())
    return f"{rows:4d} x {tokens:2d}, heads of {width}, {str(dtype)[6:]:8s} {mask:6s}  {cells}  auto: {chosen} {far}"


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    for rows, tokens, width in SIZES:
        for dtype in (torch.bfloat16, torch.float32):
            for mask in ("full", "causal"):
                print(measure(rows, tokens, width, dtype, mask, rounds), flush=True)


if __name__ == "__main__":
    main()
