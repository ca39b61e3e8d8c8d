"""Recall from context, by attention and by what competes with it: a table over three seeds.

Multi-query associative recall (arXiv:2312.04927), as `attentune evaluate --suite recall` trains it: vocabulary 256,
rows of 64 tokens, width 64, no MLP, learned positions, 10,000 examples, at most 24 epochs. Finished trainings are kept
in the folder, so that the same command goes on where it was stopped.

    python benchmarks/recall.py [--jobs 2] [--out runs/recall] [--only "linear"] [--seeds 3]
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from attentune.evaluation.suites import read_suite
from attentune.mechanisms import layer
from attentune.models.storage import atomic_write
from attentune.training.suite import Cell, Setting, SuiteResult, run_suite, train_cells

ATTENTION = "heads=1, mask=causal"
FEW = "recall(noise=false)"  # among zeros, where every seed finds the way; among random tokens one in three does not
MANY = "recall(pairs=16)"  # among random tokens, which take the place of a curriculum; among zeros none of two did
RATES = (1e-3, 3e-3, 6e-3, 1e-2)


@dataclass(frozen=True)
class Row:
    """One line of the table: layers on a suite, the learning rates to choose from, and what is to come out."""

    name: str
    suite: str
    layers: str
    depth: int
    least: float = 0.0
    most: float = 1.0
    rates: tuple[float, ...] = ()


TABLE = (
    Row("2 attention layers", FEW, ATTENTION, 2, least=0.99),
    Row("1 attention layer", FEW, ATTENTION, 1, most=0.35),
    Row("2 layers, window 8", FEW, "heads=1, mask=causal & window(8)", 2, most=0.5),
    Row("conv 3, window 8", FEW, "branches=short_conv(3); heads=1, mask=causal & window(8)", 2, most=0.5),
    Row("conv 3, 1 attention layer", FEW, f"branches=short_conv(3); {ATTENTION}", 2, least=0.99),
    Row("2 attention layers", MANY, ATTENTION, 2, least=0.99),
    Row("2 linear attention", MANY, "branches=linear_attention", 2, most=0.8, rates=RATES),
    Row("2 delta rule", MANY, "branches=gated_delta(gate=false, output_gate=false, conv=0)", 2),
)
ABOVE = ("2 delta rule", "2 linear attention")  # the first is to be above the second


def setting(row: Row) -> Setting:
    task = read_suite(row.suite)
    layers = [layer(text.strip()) for text in row.layers.split(";")]
    return Setting.of(task, layers, task.recipe.replace(depth=row.depth))


def train_beside_each_other(rows: list[Row], arguments: argparse.Namespace) -> None:
    """Every training that no other decides, of all rows at once, so that no processor waits at the end of a row."""
    cells = [
        Cell(setting(row), rate, seed)
        for row in rows
        for rate in row.rates or (setting(row).recipe.learning_rate,)
        for seed in range(1 if row.rates else arguments.seeds)
    ]
    train_cells(cells, folder=arguments.out, jobs=arguments.jobs, progress=told)


def told(share: float, note: str) -> None:
    print(f"\r{share:4.0%} {note:<70}", end="", file=sys.stderr, flush=True)


def measured(row: Row, arguments: argparse.Namespace) -> SuiteResult:
    return run_suite(
        setting(row),
        seeds=range(arguments.seeds),
        learning_rates=row.rates,
        folder=arguments.out,
        jobs=arguments.jobs,
        progress=told,
    )


def line(row: Row, result: SuiteResult) -> str:
    pairs = result.setting.task.pairs
    seeds = " ".join(f"{cell.score.accuracy:.3f}" for cell in result.best)
    epochs = " ".join(f"{cell.epochs}" for cell in result.best)
    bound = f">= {row.least:g}" if row.least else f"<= {row.most:g}" if row.most < 1 else ""
    met = ("yes" if row.least <= result.accuracy <= row.most else "NO") if bound else ""
    seconds = sum(cell.seconds for cell in result.cells)
    return (
        f"| {pairs} | {row.name} | {result.accuracy:.3f} ± {result.spread:.3f} | {seeds} | {epochs} | "
        f"{result.learning_rate:g} | {bound} | {met} | {result.cells[0].parameters:,} | {seconds:.0f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each in a process with one thread")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/recall"), help="folder of finished trainings and table.md"
    )
    parser.add_argument("--only", default="", help="rows whose name holds this")
    arguments = parser.parse_args()
    lines = [
        "| pairs | layers | accuracy | seeds | epochs | learning rate | expected | met | parameters | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str], SuiteResult] = {}
    met = True
    rows = [row for row in TABLE if arguments.only in row.name]
    train_beside_each_other(rows, arguments)
    for row in rows:
        found[row.suite, row.name] = result = measured(row, arguments)
        met = met and row.least <= result.accuracy <= row.most
        lines.append(line(row, result))
        print(f"\r{lines[-1]:<80}", file=sys.stderr)
    if all((MANY, name) in found for name in ABOVE):
        higher, lower = (found[MANY, name].accuracy for name in ABOVE)
        met = met and higher > lower
        lines += ["", f"{ABOVE[0]} ({higher:.3f}) above {ABOVE[1]} ({lower:.3f}): {'yes' if higher > lower else 'NO'}"]
    for (_, name), result in found.items():
        tried = [cell for cell in result.cells if cell.seed == 0]
        if len(tried) > 1:
            rates = ", ".join(f"{cell.learning_rate:g}: {cell.score.accuracy:.3f}" for cell in tried)
            lines += ["", f"{name}, seed 0 at each learning rate: {rates}"]
    trained = sum(cell.seconds for result in found.values() for cell in result.cells) / 60
    machine = f"torch {torch.__version__}, {platform.machine()}"
    lines += ["", f"{machine}: {trained:.1f} minutes of training, {arguments.jobs} trainings at a time"]
    print("\n".join(lines))
    atomic_write(arguments.out / "table.md", "\n".join(lines) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
