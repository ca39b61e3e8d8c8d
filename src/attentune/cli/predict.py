"""`attentune predict`: what a model of a task says of the records of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions

EXAMPLES = """
    attentune predict runs/stars --input reviews.csv --output stars.jsonl
    attentune predict runs/stars --input reviews.jsonl.gz --output stars.csv --bare
    attentune predict runs/stars --input - --output - --input-format jsonl
"""
Count = Annotated[int, Field(ge=1)]


class Options(CommandOptions):
    """Predict what the records of a file are, however many there are.

    MODEL is the folder of a model, or the folder that `train` has written to, which holds one. The input has the
    columns of the task; its format is told by its ending, or by --input-format. Written are the columns of the input
    and the prediction with its probabilities. The same command goes on where it was interrupted: until the output is
    whole it is called OUTPUT.partial.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]  # folder
    input: str  # file of records; - is the standard input
    output: str  # file of predictions; - is the standard output
    format: Literal["jsonl", "csv"] | None = None  # of the output; None: by its ending, JSON lines for others
    bare: bool = False  # write the predictions alone, without the columns of the input
    encoding: str | None = None  # of the input; None detects it
    header: Literal["auto", "yes", "no"] = "auto"  # whether the input's first line names its columns
    input_format: Literal["csv", "tsv", "jsonl", "json", "parquet", "lines", "conll"] | None = None  # None: by ending
    block: Count = 1024  # records that are predicted and written together
    restart: bool = False  # throw away what an interrupted run has written, or replace an output that exists
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is one
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Write the predictions."""
    from attentune.cli.predicting import predict

    predict(options)
    return 0
