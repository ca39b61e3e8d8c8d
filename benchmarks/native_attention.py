"""Useful operations of the compiled core per second, as a share of torch's matrix product in the same run.

A visible pair of query and key counts 4 D operations forward and 14 D with the backward pass, whatever is computed
beside it. Measurements take turns, the figures are medians; `--cpu-time` counts the time of this process instead of the
clock's, for a machine with other work (use one thread then).

    OMP_NUM_THREADS=2 python benchmarks/native_attention.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attentune.kernels import Layout, LayoutKind, native
from attentune.kernels.tile_table import TileTable, tile_table
from attentune.mechanisms import attention
from attentune.spec.positions import Positions

HEADS, WIDTH, SQUARE = 8, 64, 2048


def operands(length: int, keys: int) -> list[Tensor]:
    shapes = ((1, length, HEADS, WIDTH), (1, keys, HEADS, WIDTH), (1, keys, HEADS, WIDTH))
    return [torch.randn(shape).transpose(1, 2).requires_grad_() for shape in shapes]


def core(table: TileTable, q: Tensor, k: Tensor, v: Tensor, **more: frozenset[str]) -> native.NativeResult:
    last = torch.arange(k.shape[2], dtype=torch.int32)[None]
    query = last[:, k.shape[2] - q.shape[2] :]
    return native.forward(q, k, v, scale=WIDTH**-0.5, table=table, query_position=query, key_position=last, **more)


def timed(ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each, one after the other in every round."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = clock()
            way()
            seconds[name].append(clock() - begin)
    return {name: median(found) for name, found in seconds.items()}


def prefill(mask: str, length: int, rounds: int, clock: Callable[[], float], *, masked: bool) -> None:
    spec, layout = attention(f"heads={HEADS}, mask={mask}"), Layout.plain(length)
    table = tile_table(layout, spec.mask)
    pairs = int(table.visible_count().sum())
    q, k, v = operands(length, length)
    given = torch.randn_like(q)
    left, right = torch.randn(SQUARE, SQUARE), torch.randn(SQUARE, SQUARE)
    visible = layout.visible(spec.mask) if masked else None

    def peer() -> Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)

    def plainly(way: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(way)

    ways: dict[str, Callable[[], object]] = {
        "product": lambda: left @ right,
        "forward": plainly(lambda: core(table, q, k, v)),
        "statistics": plainly(lambda: core(table, q, k, v, wanted=frozenset({"column_mass", "entropy"}))),
        "both": lambda: torch.autograd.grad(core(table, q, k, v).output, (q, k, v), given),
    }
    if masked or mask == "causal":
        ways |= {"sdpa": plainly(peer), "sdpa both": lambda: torch.autograd.grad(peer(), (q, k, v), given)}
    seconds = timed(ways, rounds, clock)
    rate = 2 * SQUARE**3 / seconds["product"]
    line = f"{mask:12} {length:6}  product {rate / 1e9:4.0f} GFLOP/s"
    for name, operations in (("forward", 4), ("both", 14)):
        share = operations * WIDTH * HEADS * pairs / seconds[name] / rate
        line += f"  {name} {seconds[name] * 1e3:7.1f} ms {share:4.0%}"
    line += f"  with statistics {seconds['statistics'] / seconds['forward']:.2f}x"
    if "sdpa" in seconds:
        line += f"  SDPA {seconds['sdpa'] * 1e3:.1f} and {seconds['sdpa both'] * 1e3:.1f} ms"
    print(line, flush=True)


def decode(keys: int, rounds: int, clock: Callable[[], float]) -> None:
    """One query over a cache: gigabytes of keys and values per second."""
    layout = Layout(LayoutKind.CACHED, Positions.arange(1, start=keys - 1), Positions.arange(keys))
    table = tile_table(layout, attention(f"heads={HEADS}, mask=causal").mask)
    q, k, v = (x.detach() for x in operands(1, keys))
    ways: dict[str, Callable[[], object]] = {
        "forward": lambda: core(table, q, k, v),
        "sdpa": lambda: scaled_dot_product_attention(q, k, v),
        "copy": lambda: k.clone(),
    }
    seconds = timed(ways, 5 * rounds, clock)
    size = 2 * k.numel() * k.element_size()
    rates = {name: size / found / 1e9 for name, found in seconds.items()}
    print(
        f"decode {keys:8} keys  {seconds['forward'] * 1e3:.2f} ms, {rates['forward']:.1f} GB/s;"
        f" SDPA {seconds['sdpa'] * 1e3:.2f} ms; a copy moves {rates['copy']:.1f} GB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--short", action="store_true", help="2,048 tokens alone")
    options = parser.parse_args()
    if (missing := native.available()) is not None:
        sys.exit(str(missing))
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"{torch.get_num_threads()} threads, {native.instruction_set()}, {HEADS} heads of {WIDTH}, float32")
    for length in (2048,) if options.short else (2048, 8192):
        prefill("window(256)", length, options.rounds, clock, masked=length == 2048)
        prefill("causal", length, options.rounds if length == 2048 else 2, clock, masked=False)
        decode(length, options.rounds, clock)


if __name__ == "__main__":
    main()
