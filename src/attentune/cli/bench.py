"""`attentune bench`: attention measured on this machine, beside its peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions
from attentune.cli.words import UsageError

EXAMPLES = """
    attentune bench attention --core
    attentune bench attention --masks window packed --lengths 2048 8192 --passes forward forward+backward
    attentune bench attention --masks causal --scores none alibi --lengths 512 --peers sdpa naive --json
    attentune bench attention --core --device cuda --dtype bfloat16 --out runs/bench-gpu
"""
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Mask = Literal["full", "causal", "window", "sinks", "packed", "prefix", "bigbird", "symmetric"]
Score = Literal["none", "alibi", "soft_cap", "t5"]
Pass = Literal["forward", "forward+backward", "decode", "statistics"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Peer = Literal[
    "sdpa", "sdpa_mask", "flex", "naive", "chunked", "local_attention", "x_transformers", "longformer", "none"
]
OF_THE_GRID = ("masks", "scores", "lengths", "passes")  # what --core decides


class Options(CommandOptions):
    """Measure attention: our kernels and their peers, interleaved in one run, each held against float64 first.

    Every combination of masks, scores, lengths, passes and dtypes is a cell; --core takes 24 telling ones, in about
    half an hour. A contestant that computes something else than the cell asks for gets no figure but a note, and so
    does one that takes longer or more memory than the limits. Finished cells are kept: the same command goes on.

    The folder then holds `table.md`, `attention.png`, `results.json` and, in `cells/`, a file for each cell.
    """

    what: Annotated[Literal["attention"], tyro.conf.Positional]
    core: bool = False  # 24 telling cells instead of a grid
    masks: tuple[Mask, ...] = ()  # all of them; sinks: a window and the first 4 keys; packed: causal, in documents
    scores: tuple[Score, ...] = ()  # all of them
    lengths: tuple[Count, ...] = ()  # 512, 2048, 8192 and 32768
    passes: tuple[Pass, ...] = ()  # all; decode: one token behind a cache; statistics: column mass and entropy too
    dtype: tuple[Dtype, ...] = ()  # float32
    peers: tuple[Peer, ...] = ()  # all that are installed: pip install 'attentune[bench]'
    kernels: tuple[str, ...] = ()  # ours: all, with --core all but flex and reference; what auto picks in any case
    heads: Count = 8
    head_width: Count = 64
    batch: Count = 1
    window: Count = 256  # visible keys, the query's own included
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Count | None = None  # None: one for each core
    rounds: Count = 7  # of each contestant, fewer where a call takes long
    limit_seconds: Positive = 30.0  # of one call
    limit_gib: Positive = 12.0  # memory beside the operands
    out: Path = Path("runs/bench")  # folder of the results


def run(options: Options) -> int:
    """Print the table; 1 where a kernel of ours was wrong or failed."""
    from attentune.cli.benching import bench

    if options.core:
        for name in OF_THE_GRID:
            if getattr(options, name):
                raise UsageError(f"--core is a choice of cells: leave out --{name}, or --core")
    if "none" in options.peers and len(options.peers) > 1:
        raise UsageError("--peers none goes with no other peer")
    return bench(options)
