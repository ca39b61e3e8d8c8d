"""`attentune train`: one model from one file of settings: a language model, or a model of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from attentune.cli.parsing import CommandOptions
from attentune.cli.task_defaults import is_language
from attentune.cli.words import UsageError
from attentune.spec.ngrams import NgramSpec
from attentune.spec.run import DataSpec, RunSpec
from attentune.spec.value import Frozen

EXAMPLES = """
    attentune train --config configs/shakespeare.toml --data shakespeare.txt --out runs/shakespeare
    attentune train --data book.txt --steps 500 --model.layers "heads=4/2, position=alibi, mask=causal"
    attentune train --config configs/shakespeare.toml --optimizer.name muon --optimizer.learning-rate 5e-3 --json
    attentune train --task "classify(text=review, label=stars)" --data train.csv --epochs 10 --out runs/stars
    attentune train --config configs/sst2.toml --data train.tsv --validation-path dev.tsv --test-path test.tsv
    attentune train --config configs/sst2.toml --data train.tsv --seeds 3 --out runs/three
    attentune train --task mlm --data texts.txt --out runs/read
    attentune train --task "classify(text=review, label=stars)" --data train.csv --from runs/read --out runs/stars
"""
CAUSAL = ("heads=4, position=rotary, mask=causal",)
WHOLE = ("heads=4, position=rotary, mask=full",)
Size = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class FeedForwardOptions(Frozen):
    """The position-wise network of each layer."""

    name: Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh", "none"] = "gelu"
    hidden: Size | None = None  # width inside; None: 4 x width, where gated 8/3 x width


class HaltingOptions(Frozen):
    """Adaptive depth: tokens halt by a learned confidence, and are not computed in deeper layers."""

    weight: Annotated[float, Field(ge=0)] | None = None  # of its cost in the loss, such as 0.01; None: no token halts
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.01  # a token halts when its confidences sum to 1 - epsilon
    bias: float = -3.0  # of the confidence at the start: it is then sigmoid(bias) after each layer

    @model_validator(mode="after")
    def _is_used(self) -> HaltingOptions:
        if self.weight is None and (self.epsilon, self.bias) != (0.01, -3.0):
            raise ValueError("epsilon and bias do nothing without a weight: say for example weight = 0.01")
        return self


class NgramOptions(Frozen):
    """Vectors of pairs of tokens, or longer pieces, beside those of tokens: for models that see a text whole."""

    longest: Annotated[int, Field(ge=1, le=8)] = 1  # tokens of a piece; 1: none have vectors
    buckets: Size = 50_000  # vectors for the pieces of each length, which are hashed
    dropout: Probability = 0.0  # the share of pieces that a training step leaves out

    @model_validator(mode="after")
    def _is_used(self) -> NgramOptions:
        if self.longest == 1 and (self.buckets, self.dropout) != (50_000, 0.0):
            raise ValueError("buckets and dropout do nothing without longest: say for example longest = 2")
        return self

    def spec(self) -> NgramSpec | None:
        """The same as a model has it."""
        return None if self.longest == 1 else NgramSpec(**self.model_dump())


class EncoderOptions(Frozen):
    """The encoder beside a decoder: what it does not say is as in the decoder."""

    depth: Size | None = None  # layers; None: as many as the decoder
    layers: tuple[str, ...] = WHOLE  # attentions, repeated over the depth

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer_is_a_pattern(cls, layers: object) -> object:
        return (layers,) if isinstance(layers, str) else layers


class ModelOptions(Frozen):
    """The model; the data decide its vocabulary, the run its context."""

    width: Size = 128  # numbers of a token
    depth: Size = 4  # layers
    layers: tuple[str, ...] = CAUSAL  # attentions, repeated over the depth; where left out, an encoder's see all
    feed_forward: FeedForwardOptions = FeedForwardOptions()
    position: Literal["none", "sinusoidal", "learned"] = "none"  # what is added to the embeddings
    ngrams: NgramOptions = NgramOptions()  # in an encoder: pieces of text that have vectors of their own
    norm: Literal["layer", "rms", "batch"] = "layer"
    norm_placement: Literal["pre", "post"] = "pre"
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: 1e-5, for rms 1e-6
    embedding_norm: bool = False  # normalise what enters the first layer
    bias: bool = False  # in linear layers and LayerNorm
    tie_embeddings: bool = True  # the output head is the embedding
    head_transform: bool = False  # a linear layer, the activation and a norm before the logits, as in BERT
    head_bias: bool = False  # a number for each token of the vocabulary, added to the logits
    scale_embeddings: bool = False  # x sqrt(width), as in the Transformer of 2017
    output_init: Literal["scaled", "zero"] = "scaled"  # of projections back into the residual stream
    dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    logit_factor: Annotated[float, Field(gt=0)] | None = None  # of all logits; None: 1, 1/sqrt(width) where scaled
    logit_soft_cap: Annotated[float, Field(gt=0)] | None = None
    share: tuple[Literal["position", "embedding"], ...] = ()  # what all layers, or encoder and decoder, have in common
    halting: HaltingOptions = HaltingOptions()
    encoder: EncoderOptions = EncoderOptions()  # of tasks from sequence to sequence

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer_is_a_pattern(cls, layers: object) -> object:
        return (layers,) if isinstance(layers, str) else layers


class Options(CommandOptions, RunSpec):
    """Train one model. The same command goes on where it was interrupted, to the same losses.

    Without --task a language model of the text of --data. With it a model of that task, from the records of --data:
    `classify(text=COLUMN, label=COLUMN)` learns labels, `tag()` names in sentences; `attentune tasks` lists them all
    with their options. Unless they are named, the tokenizer of a task is bpe and its context 128. Columns of a file
    without a header go by their numbers, `classify(text=1, label=2)`. The weights that do best on the validation
    records are kept, and measured on those of --test-path beside simple baselines. The folder then holds model/,
    result.json, report.md and pictures.

    --from starts from the weights and the tokenizer of a folder: a model of ours, of language or of any task, or a
    local checkpoint of BERT, GPT-2, Llama or Marian as Hugging Face lays it out; --freeze and --start say what of it
    learns.

    Keys of the TOML file are the options without dashes: `steps = 500`, `[optimizer] learning_rate = 1e-3`,
    `[model] width = 128`.
    """

    config: Path | None = None  # TOML file whose settings the options override
    task: str | None = None  # "classify(text=review, label=stars)"; None: a language model
    validation_path: str | None = None  # records to choose the best weights by; None: drawn, the share data.validation
    test_path: str | None = None  # records to measure by at the end
    epochs: Annotated[float, Field(gt=0)] | None = None  # passes over the records; they then decide `steps`
    seeds: Size = 1  # trainings from scratch, the first with `seed`, each next one with one more
    drop_duplicates: bool = False  # leave training records out whose text stands in validation or test
    baselines: bool = True  # measure simple answers too, on the test records
    out: Path = Path("runs/train")  # folder of checkpoints, logs and, at the end, the model
    model: ModelOptions = ModelOptions()
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is one
    restart: bool = False  # throw earlier checkpoints in the folder away
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def language_column(task: str) -> str | None:
    """The column of text that `lm`, `lm(text=COLUMN)` names, empty for none; None where `task` is another one."""
    from attentune.spec.text import read_call

    if not is_language(task):
        return None
    _, named = read_call(task, "task", example="lm(text=review)")
    if unknown := sorted(named.keys() - {"text"}):
        raise UsageError(f"task lm has no option {unknown[0]!r}; it has text, the column of a table")
    return str(named.get("text", ""))


def of_column(data: DataSpec, column: str) -> DataSpec:
    """The data of a language model, of which `lm(text=COLUMN)` names the column, where it does."""
    if column and data.column not in (None, column):
        raise UsageError(f"the text is in data.column={data.column} and in lm(text={column}): name one")
    return data.replace(column=column) if column else data


OF_TASKS = ("average", "validation_path", "test_path", "epochs", "seeds", "drop_duplicates", "baselines")


def run(options: Options) -> int:
    """Train, save the model in `out/model`, and print its score on what was held out."""
    if options.task is not None and (column := language_column(options.task)) is not None:
        options = options.model_copy(update={"task": None, "data": of_column(options.data, column)})
    if options.task is not None:
        from attentune.cli.task_training import train_on_task

        train_on_task(options, options.task)
        return 0
    for name in OF_TASKS:
        if getattr(options, name) != Options.model_fields[name].default:
            raise UsageError(f"--{name.replace('_', '-')} needs a --task (see attentune train --help)")
    if options.data.lowercase or options.data.tokenizer == "word":
        raise UsageError("data.lowercase and data.tokenizer=word are for tasks: name one with --task")
    if options.data.tokenizer_from is not None:
        raise UsageError("data.tokenizer_from is for tasks; a language model goes on from one with --from")
    from attentune.cli.training import train_and_save

    train_and_save(options)
    return 0
