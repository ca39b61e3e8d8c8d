"""The work of `attentune bench attention`: cells, figures, and the files that are left behind."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import torch

from attentune.cli.bench import Options
from attentune.cli.console import activity, print_json
from attentune.cli.words import UsageError
from attentune.errors import near
from attentune.evaluation.speed.findings import findings
from attentune.evaluation.speed.grid import CORE, LENGTHS, MASKS, PASSES, SCORES, Cell, Setting, grid
from attentune.evaluation.speed.peers import PEERS
from attentune.evaluation.speed.picture import as_png
from attentune.evaluation.speed.results import Results
from attentune.evaluation.speed.run import measure
from attentune.evaluation.speed.table import as_markdown
from attentune.kernels import KERNELS
from attentune.models.storage import atomic_write

NOT_OF_THE_CORE = ("flex", "reference")  # compiled once more beside the peer, and never meant to be fast


def bench(options: Options) -> int:
    """Measure, write the files, print the table; 1 where a kernel of ours was wrong or failed."""
    cells, remarks = _cells(options)
    setting = _setting(options)
    with activity("bench") as report:
        results = measure(cells, setting, folder=options.out, progress=report)
    results = replace(results, remarks=remarks)
    data = {**results.as_data(), "findings": list(findings(results))}
    atomic_write(options.out / "results.json", json.dumps(data, indent=1) + "\n")
    atomic_write(options.out / "table.md", as_markdown(results))
    if (picture := as_png(results)) is not None:
        atomic_write(options.out / "attention.png", picture)
    if options.json_:
        print_json(data)
    else:
        print(
            as_markdown(results, full=False) + f"\nEvery figure, and why others have none: {options.out / 'table.md'}"
        )
    return 1 if _broken(results) else 0


def _cells(options: Options) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    dtypes = options.dtype or ("float32",)
    if options.core:
        return tuple(replace(cell, dtype=dtype) for dtype in dtypes for cell in CORE), ()
    cells, left_out = grid(
        masks=options.masks or MASKS,
        scores=options.scores or SCORES,
        lengths=options.lengths or LENGTHS,
        passes=options.passes or PASSES,
        dtypes=dtypes,
    )
    if not cells:
        raise UsageError(f"no cell is left: {left_out[0]}")
    return cells, left_out


def _setting(options: Options) -> Setting:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA device on this machine")
    for name in options.kernels:
        if name not in KERNELS:
            raise UsageError(f"--kernels: {name} is unknown; {near(name, KERNELS)}")
    kernels = options.kernels or tuple(name for name in KERNELS if not (options.core and name in NOT_OF_THE_CORE))
    peers = () if "none" in options.peers else tuple(dict.fromkeys(options.peers or PEERS))
    return Setting(
        heads=options.heads,
        head_width=options.head_width,
        batch=options.batch,
        window=options.window,
        device=options.device,
        threads=options.threads or _cores(),
        rounds=options.rounds,
        limit_seconds=options.limit_seconds,
        limit_gib=options.limit_gib,
        peers=peers,
        kernels=tuple(dict.fromkeys(kernels)),
    )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _broken(results: Results) -> bool:
    return any(entry.ours and entry.status in ("wrong", "failed") for one in results.cells for entry in one.entries)
