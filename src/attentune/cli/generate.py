"""`attentune generate`: text from a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions

EXAMPLES = """
    attentune generate runs/book/best --prompt "Once upon a time"
    attentune generate runs/book/best --prompt "def " --tokens 400 --temperature 0.7 --top-p 0.95 --seed 3
    attentune generate runs/book/best --prompt "Once" --greedy --json
"""
Count = Annotated[int, Field(ge=1)]


class Options(CommandOptions):
    """Continue a prompt with a model, token by token.

    MODEL is the folder of a model, or the folder that `train` or `optimize` has written to, which holds one.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]  # folder
    prompt: str = ""  # text to continue; without one, the start of a text or of a line
    unknown: Literal["error", "skip"] = "error"  # characters of the prompt that the model's tokenizer does not know
    tokens: Count = 200  # new tokens at most
    greedy: bool = False  # always the likeliest token; the settings of sampling do not apply
    temperature: Annotated[float, Field(gt=0)] = 0.8  # of sampling: lower is safer, higher bolder
    top_k: Count | None = None  # sample from the k likeliest tokens only
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None  # sample from the likeliest tokens that hold this share
    seed: Annotated[int, Field(ge=0)] = 0  # the same seed gives the same text
    samples: Count = 1  # continuations
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is one
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the prompt and its continuations."""
    from attentune.cli.writing import write

    write(options)
    return 0
