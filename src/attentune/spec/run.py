"""How a model is trained: a frozen value, the same in `run.toml`, in checkpoints and in the ledger."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from attentune.spec.start import StartSpec
from attentune.spec.value import Frozen

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Frozen):
    """The optimizer and its numbers.

    `muon` orthogonalises the momentum of hidden matrices (Jordan et al., 2024) and leaves
    embeddings, vectors and the output head to AdamW at `learning_rate * adamw_ratio`.
    """

    name: Literal["adamw", "muon", "adagrad", "adafactor"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    epsilon: Positive = 1e-8
    momentum: Fraction = 0.95  # muon only
    adamw_ratio: Positive = 0.15  # muon only: AdamW's learning rate as a share of muon's


class ScheduleSpec(Frozen):
    """Learning rate over steps: linear warm-up, then the shape down to `floor * learning_rate`.

    `wsd` stays at the peak and decays linearly over the last `decay` share of the steps
    (warm-up, stable, decay; arXiv:2404.06395).
    """

    name: Literal["constant", "cosine", "wsd"] = "cosine"
    warmup: int = Field(default=100, ge=0)  # steps
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the peak
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2  # wsd only: share of all steps


class ClipSpec(Frozen):
    """Gradient clipping: `norm` by the global norm, `agc` by each unit's weight norm (arXiv:2102.06171)."""

    name: Literal["none", "norm", "agc"] = "norm"
    limit: Positive = 1.0  # norm: largest global norm; agc: largest ratio |g| / |w|


class RegularizerSpec(Frozen):
    """What is added to the loss. Dropout is part of the model, weight decay of the optimizer."""

    l1: NonNegative = 0.0  # x sum of |w| over the weights that decay
    l2: NonNegative = 0.0  # x sum of w^2 over the weights that decay
    label_smoothing: Fraction = 0.0
    consistency: NonNegative = 0.0  # R-Drop: x disagreement of two passes with different dropout (arXiv:2106.14448)


class DataSpec(Frozen):
    """Where the text is and how it becomes tokens."""

    path: str | None = None  # file or folder; None is the built-in text
    column: str | None = None  # of JSONL, CSV and Parquet
    encoding: str | None = None  # None detects it
    header: bool | None = None  # of tables, for tasks: whether the first line names columns; None: unless numbers do
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "lines", "conll"] | None = None  # None: by the ending
    tokenizer: Literal["byte", "char", "bpe", "word"] = "char"  # word: of tasks only
    vocab_size: int = Field(default=4096, ge=257)  # of bpe; of tasks also the most words or characters that are known
    lowercase: bool = False  # of tasks only
    tokenizer_from: str | None = None  # of tasks: a model folder whose tokenizer is used, instead of a new one
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1  # the last share of the text
    isolate_documents: bool = False  # packed rows: no attention from one document to another


class RunSpec(Frozen):
    """One training run. Sizes are in tokens and optimizer steps."""

    data: DataSpec = DataSpec()
    start: StartSpec = StartSpec()
    context: int = Field(default=64, ge=1)  # tokens a training row holds
    batch: int = Field(default=12, ge=1)  # rows of one optimizer step
    accumulate: int = Field(default=1, ge=1)  # micro-batches that make one step's batch
    steps: int = Field(default=2000, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    clip: ClipSpec = ClipSpec()
    regularizer: RegularizerSpec = RegularizerSpec()
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it, fp32 on a CPU
    compile: bool = False
    seed: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=250, ge=1)  # steps
    evaluate_tokens: int | None = Field(default=65536, ge=1)  # during training; the end uses all of it
    average: int = Field(
        default=1, ge=1
    )  # of tasks: the mean of the weights at so many evaluations is measured and kept
    checkpoint_every: int = Field(default=250, ge=1)  # steps
    diagnose_every: int = Field(default=100, ge=0)  # steps between gradient-flow records; 0 never

    @model_validator(mode="after")
    def _batch_splits(self) -> RunSpec:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate must divide batch, got batch={self.batch}, accumulate={self.accumulate}")
        return self

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.tokens_per_step * self.steps
