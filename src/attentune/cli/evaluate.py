"""`attentune evaluate`: a trained model on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions

EXAMPLES = """
    attentune evaluate runs/book/best --data other.txt
    attentune evaluate runs/book/best --data book.txt --validation 0.1 --json
    attentune evaluate runs/book/best --data reviews.csv --column text --unknown skip
    attentune evaluate runs/book/best --data book.txt --limit 10000 --cost
"""
Count = Annotated[int, Field(ge=1)]


class Options(CommandOptions):
    """Measure a model on text: nats, bits per character and byte, perplexity.

    The whole text is read in windows of `context` tokens, and every token but the first is predicted exactly once.
    """

    model: tyro.conf.Positional[Path]  # folder of the model
    data: str | None = None  # file or folder; None is the built-in text
    column: str | None = None  # of JSONL, CSV and Parquet
    encoding: str | None = None  # None detects it
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None  # only the last share, as training holds it out
    unknown: Literal["error", "skip"] = "error"  # characters that the model's tokenizer does not know
    context: Count | None = None  # tokens of a window; None is what the model was made for
    stride: Count | None = None  # tokens from one window to the next; None is context, less overlaps (slower)
    limit: Count | None = None  # about how many tokens to predict, in evenly spaced windows; None is all
    isolate_documents: bool = False  # no attention from one document to another
    batch: Count = 32  # windows at a time; does not change the score
    cost: bool = False  # also measure latency of one token, training speed and peak memory, in batches of 12
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is one
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the score."""
    from attentune.cli.measuring import measure

    measure(options)
    return 0
