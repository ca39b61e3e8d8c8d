"""`attentune plan`: EXPLAIN for attention."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from attentune.cli.console import print_json
from attentune.cli.parsing import CommandOptions
from attentune.cli.words import UsageError

EXAMPLES = """
    attentune plan --attention "heads=8/2, position=rotary, mask=causal & window(256)" --length 4096
    attentune plan --attention "heads=8, mask=causal, normalizer=entmax15" --train --wanted weights
    attentune plan --model runs/book/best --length 1 --keys 2048 --json
    attentune plan --calibrate
"""
Count = Annotated[int, Field(ge=1)]
STEADY = 1.3  # how much slower the same work may become while a machine is measured


class Options(CommandOptions):
    """Explain which kernel computes an attention: the choice, why not the others, predicted operations and bytes.

    A model is planned when it is built, for rows of up to 256, 2,048 and 16,384 tokens and beyond, and for one token
    behind 2,048; here it is planned for exactly --length. Nothing is run, unless --calibrate measures this machine
    first, which wants nothing else to run. An operation is one addition or multiplication; a piece is a call of a path,
    or of one of its tiles in Python.
    """

    attention: str | None = None  # text form of the attention; or name a model
    model: Path | None = None  # folder of a model, or one that holds a model: its different layers are planned
    width: Count | None = None  # numbers of a token: 512, or what the model says
    length: Count = 1024  # queries of a row
    keys: Count | None = None  # keys of a row where they are more than the queries, as with a cache
    batch: Count = 1  # rows
    layout: Literal["plain", "padded", "packed", "cross"] = "plain"  # padded rows, several documents, another sequence
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    train: bool = False  # gradients are needed
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the attention weights
    wanted: tuple[Literal["lse", "weights", "column_mass", "entropy", "top_k"], ...] = ()  # beside the output
    kernel: str = "auto"  # this one, or say why it cannot
    calibrate: bool = False  # measure this CPU once; later plans use what was found, which running models never do
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the plan of the attention, or of each different attention of the model."""
    if options.calibrate:
        _calibrate(options.json_)
        if options.attention is None and options.model is None:
            return 0
    if (options.attention is None) == (options.model is None):
        raise UsageError('give --attention "heads=8, mask=causal" or --model FOLDER (see attentune plan --help)')
    if options.model is not None and options.width is not None:
        raise UsageError(f"--width is what the model says; leave out --width {options.width} or --model")
    if options.keys is not None and options.keys < options.length:
        raise UsageError(f"--keys must be at least --length, got {options.keys} keys and {options.length} queries")
    from attentune.cli.explain import as_data, plans

    found = plans(options)
    if options.json_:
        print_json([as_data(plan) for plan in found])
    else:
        print("\n\n".join(plan.explain() for plan in found))
    return 0


def _calibrate(as_json: bool) -> None:
    """Measure, keep and tell the rates of this machine."""
    from attentune.kernels import KERNELS
    from attentune.kernels.calibration import calibrate
    from attentune.kernels.machine import identity, store

    found = calibrate(KERNELS)
    path = store(found)
    if as_json:
        print_json({"machine": identity(), "file": str(path), **asdict(found)})
        return
    print(f"machine    {identity()['cpu']}, {identity()['threads']} threads, torch {identity()['torch']}")
    print(f"rates      {found.matrix_products:.3g} operations/s in matrix products, {found.memory:.3g} bytes/s")
    for name, speed in found.speeds.items():
        print(f"  {name:<21}{speed.operations:>9.3g} operations/s, {speed.overhead * 1e6:>6.0f} us a piece")
    print(f"kept in    {path} (plans forget it when the file is removed)")
    if found.spread > STEADY:
        print(
            f"look at    the same matrix product took up to {found.spread:.1f} times as long while this was measured: "
            "the machine was busy; measure again when nothing else runs"
        )
    print()
