"""`attentune evaluate`: a trained model on a text or on the records of its task, or attentions on a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions
from attentune.cli.words import UsageError
from attentune.spec.value import Frozen

EXAMPLES = """
    attentune evaluate runs/book/best --data other.txt
    attentune evaluate runs/book/best --data book.txt --validation 0.1 --json
    attentune evaluate runs/book/best --data reviews.csv --column text --unknown skip
    attentune evaluate runs/book/best --data book.txt --limit 10000 --cost
    attentune evaluate runs/book/best --suite needle --data other.txt --unknown skip
    attentune evaluate runs/stars --data test.csv --out runs/stars/test
    attentune evaluate --suite recall --layer "heads=1, mask=causal" --out runs/recall
    attentune evaluate --suite "recall(pairs=16)" --layer "branches=linear_attention(1)" --learning-rates 1e-3 3e-3
    attentune evaluate --suite listops --layer "heads=2, mask=causal & window(64); heads=2, mask=full" --seeds 1
"""
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]

OF_TEXT = ("validation", "context", "stride", "limit", "isolate_documents", "batch", "cost")
WHERE_TEXT_IS = ("data", "column", "encoding")
OF_TASKS = ("header", "format")
OF_TRAINING = ("layer", "depth", "seeds", "learning_rates", "jobs", "out", "recipe")


class RecipeOptions(Frozen):
    """What of a suite's published training to change; what is left out stays as published."""

    width: Count | None = None  # numbers of a token
    feed_forward: Literal["gelu", "relu2", "swiglu", "none"] | None = None
    position: Literal["none", "sinusoidal", "learned"] | None = None  # what is added to the embeddings
    start: Literal["wide", "small"] | None = None  # as PyTorch's modules: wide weights, biases, own head; or .02, tied
    examples: Count | None = None  # to train on
    test_examples: Count | None = None  # held out, to measure by
    batch: Count | None = None  # rows of a training step
    epochs: Count | None = None  # at most
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    solved: Share | None = None  # accuracy at which training ends


class Options(CommandOptions):
    """Measure a model on text, or attentions on a suite of tasks with exact answers.

    MODEL is the folder of a model, or the folder that `train` or `optimize` has written to, which holds one.

    On text: nats, bits per character and byte, perplexity. The whole text is read in windows of `context` tokens, and
    every token but the first is predicted exactly once.

    A model of a task is measured on the records of --data by the figures of its task; --out keeps the report.

    With --suite: small models with the layers of --layer are trained from scratch, and their accuracy on held-out
    examples is told, with its spread over seeds. Of several learning rates the first seed chooses the one that all
    seeds use. The suites and their options, each with its published setting as default:

    recall(pairs, row, vocabulary, power, noise): values of keys (multi-query associative recall, Zoology).

    copy(symbols, alphabet, pause, selective): symbols after a pause.

    palindrome(symbols, alphabet): symbols backwards.

    listops(depth, arguments, shortest, longest): nested expressions over digits (Long Range Arena).

    needle(lengths, depths, digits, fact, question, answer): a fact in a long text, at each depth and length; with a
    model's folder that model is asked, and nothing is trained.
    """

    model: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = None  # folder of a model
    data: str | None = None  # file or folder; None is the built-in text
    column: str | None = None  # of JSONL, CSV and Parquet
    encoding: str | None = None  # None detects it
    header: Literal["auto", "yes", "no"] = "auto"  # of a task's records: whether the first line names the columns
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "lines", "conll"] | None = None  # of records; by ending
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None  # only the last share, as training holds it out
    unknown: Literal["error", "skip"] = "error"  # characters that the model's tokenizer does not know
    context: Count | None = None  # tokens of a window; None is what the model was made for
    stride: Count | None = None  # tokens from one window to the next; None is context, less overlaps (slower)
    limit: Count | None = None  # about how many tokens to predict, in evenly spaced windows; None is all
    isolate_documents: bool = False  # no attention from one document to another
    batch: Count = 32  # windows at a time; does not change the score
    cost: bool = False  # also measure latency of one token, training speed and peak memory, in batches of 12
    suite: str | None = None  # a suite instead of a text: a name, or "recall(pairs=16)"
    layer: tuple[str, ...] = ()  # to train: "heads=1, mask=causal"; of several, also by `;`, a pattern
    depth: Count | None = None  # layers of the trained model, which repeat those of --layer; None: as published
    seeds: Count = 3  # trainings from scratch
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()  # to try; empty: the published one
    recipe: RecipeOptions = RecipeOptions()
    jobs: Count = 1  # trainings at a time
    out: Path | None = None  # folder of results; of a suite also of each finished training: the same command goes on
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is one
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print the score."""
    if options.suite is None:
        _refuse(options, tuple(name for name in OF_TRAINING if name != "out"), "needs --suite")
        if options.model is None:
            raise UsageError("name the folder of a model, or a --suite (see attentune evaluate --help)")
        from attentune.cli.loading import is_of_task

        if is_of_task(options.model):
            _refuse(options, (*OF_TEXT, "column", "unknown"), "is for language models, and this one is of a task")
            from attentune.cli.task_measuring import measure_task

            measure_task(options, options.model)
            return 0
        _refuse(options, ("out",), "needs --suite")
        _refuse(options, OF_TASKS, "is for the records of a task, and this model is of language")
        from attentune.cli.measuring import measure

        measure(options)
        return 0
    _refuse(options, (*OF_TEXT, *OF_TASKS), "does not go with --suite")
    from attentune.cli.suites import find_needles, train_on_suite

    if options.model is None:
        _refuse(options, ("unknown",), "is for models that are trained already: name the folder of one")
        train_on_suite(options, options.suite)
    else:
        asked = tuple(name for name in OF_TRAINING if name != "recipe")
        _refuse(options, asked, "is for models that are trained from scratch: it does not go with a model's folder")
        find_needles(options, options.suite, options.model)
    return 0


def _refuse(options: Options, names: tuple[str, ...], why: str) -> None:
    """No option is ignored: those in `names` must be as they are by default."""
    for name in names:
        if getattr(options, name) != type(options).model_fields[name].default:
            raise UsageError(f"--{name.replace('_', '-')} {why} (see attentune evaluate --help)")
