"""What a study is to find out, as one frozen value: text, sizes, budget, objective, and the choices to try.

A candidate is one string: the text form of one value of its slot, such as `rotary` in the slot `position`. A newcomer's
own mechanism is therefore tried by adding its name. Three forms go beyond a value of the registry:

- `position` may hold `none`, `sinusoidal` or `learned`, which are added to the embeddings, alone or joined to a value
  by ` + `, as in `rotary + learned`;
- `heads` may hold `multi_head`, `grouped` or `multi_query` without numbers, which then fit the number of heads at hand;
- `;` separates the layers of a pattern, as in the mask `causal & window(16); causal`.

Of an encoder-decoder the slots are those of the decoder's self-attention; `encoder.position` is the encoder's, and
`cross.normalizer` that of what looks from one to the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from attentune.errors import AttentuneError, SpecError, StudyError
from attentune.search.candidates import Stack, check_places, default_candidates, flattened, in_order
from attentune.search.result import FEWEST_SEEDS, Constraint, Cost
from attentune.search.shape import Shape, parse_shape
from attentune.spec.codec import read_toml, to_toml
from attentune.spec.ngrams import NgramSpec
from attentune.spec.run import DataSpec, RegularizerSpec
from attentune.spec.value import Frozen

Optimizer = Literal["adamw", "muon", "adagrad", "adafactor"]
Schedule = Literal["constant", "cosine", "wsd"]
Clip = Literal["none", "norm", "agc"]
Precision = Literal["fp32", "bf16"]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|k-tokens|M-tokens|G-tokens|-tokens)")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "-tokens": 1, "k-tokens": 1e3, "M-tokens": 1e6, "G-tokens": 1e9}

OF_TASKS: Final = (
    "validation_path",
    "test_path",
    "drop_duplicates",
    "epochs",
    "average",
    "baseline_encoder",
    "baseline_cross",
)
SEARCH_SEED: Final = 1000  # added to the study's seed: the finals' seeds are never those of the search

LEARNING_RATES: Final[dict[Optimizer, tuple[float, float]]] = {
    "adamw": (1e-3, 1e-2),
    "muon": (5e-3, 5e-2),
    "adagrad": (5e-3, 1e-1),
    "adafactor": (5e-3, 1e-1),
}


class Budget(Frozen):
    """What a study may use in all: wall time or training tokens."""

    seconds: Positive | None = None
    tokens: int | None = None


def parse_budget(text: str) -> Budget:
    """`90s`, `10m`, `2h`, `500k-tokens` or `50M-tokens` as a value; SpecError for anything else."""
    found = _BUDGET.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise SpecError(f"budget: write a time such as 10m or tokens such as 50M-tokens, got {text!r}")
    amount = float(found[1]) * _UNITS[found[2]]
    return Budget(tokens=round(amount)) if found[2].endswith("tokens") else Budget(seconds=amount)


class ModelSizes(Frozen):
    """The model around the attention, the same for every trial but for what `tuning.shapes` varies."""

    width: int = Field(default=128, ge=1)
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    encoder_depth: int | None = Field(default=None, ge=1)  # of an encoder beside a decoder; None: as deep as it
    feed_forward: Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh"] = "gelu"
    hidden: int | None = Field(default=None, ge=1)  # of the baseline; candidates are fitted to equal parameters
    norm: Literal["layer", "rms", "batch"] = "layer"
    norm_placement: Literal["pre", "post"] = "pre"
    bias: bool = False
    tie_embeddings: bool = True
    scale_embeddings: bool = False  # x sqrt(width); always so where sinusoids are added, as in the paper of 2017
    logit_factor: Positive | None = None  # of logits; None: 1, of scaled embeddings that are the head 1 / sqrt(width)
    embedding_norm: bool = False  # normalise what enters the first layer
    ngrams: NgramSpec | None = None  # of a model that sees texts whole, or of the encoder beside a decoder
    dropout: Probability = 0.0
    attention_dropout: Probability = 0.0

    @property
    def shape(self) -> Shape:
        return Shape(width=self.width, depth=self.depth, heads=self.heads)


class Settings(Frozen):
    """How a model is trained, beside its attention: what tuning changes. The defaults are the untuned baseline's."""

    optimizer: Optimizer = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Share = 0.9
    beta2: Share = 0.99
    momentum: Share = 0.95  # muon only
    adamw_ratio: Positive = 0.15  # muon only: AdamW's learning rate as a share of muon's
    schedule: Schedule = "cosine"
    warmup: Share = 0.05  # share of the steps
    warmup_steps: int | None = Field(default=None, ge=0)  # instead, up to half of the steps
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the peak learning rate
    clip: Clip = "norm"
    clip_limit: Positive = 1.0
    precision: Precision = "fp32"


class TuningSpace(Frozen):
    """What is tuned for baseline and candidate alike, and with how many trials each. One entry alone is no choice."""

    trials: int = Field(default=6, ge=1)
    optimizers: Annotated[tuple[Optimizer, ...], Field(min_length=1)] = ("adamw",)
    learning_rates: dict[Optimizer, tuple[Positive, Positive]] = LEARNING_RATES  # searched on a logarithmic scale
    schedules: Annotated[tuple[Schedule, ...], Field(min_length=1)] = ("cosine", "wsd")
    warmups: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.1,)
    clips: Annotated[tuple[Clip, ...], Field(min_length=1)] = ("norm",)
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32",)
    shapes: tuple[str, ...] = ()  # such as "128x4/4", beside the model's own; parameters stay equal

    @field_validator("shapes")
    @classmethod
    def _shapes_parse(cls, shapes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_shape(shape)) for shape in shapes)

    @model_validator(mode="after")
    def _ranges_fit(self) -> TuningSpace:
        for name in self.optimizers:
            low, high = self.learning_rates.get(name, (0.0, 0.0))
            if not 0 < low <= high:
                raise ValueError(f"learning_rates.{name} needs a range low <= high, got {low} to {high}")
        return self


class ObjectiveSpec(Frozen):
    """Validation loss, or of a task its score, is made as good as it can be, within bounds and at a price.

    `trade` gives for a cost what halving it is worth (for tokens per second: what doubling it is), in nats per token
    or in the unit of the score.
    """

    max_latency_ms: Positive | None = None  # of one generated token, of a task one record
    min_tokens_per_second: Positive | None = None  # of training
    max_peak_bytes: Positive | None = None  # of tensors in one training step
    max_parameters: Positive | None = None
    trade: dict[Cost, Positive] = Field(default_factory=dict)

    def constraints(self) -> tuple[Constraint, ...]:
        """The bounds that were given."""
        found = []
        if self.max_latency_ms is not None:
            found.append(Constraint(cost="latency_ms", at_most=self.max_latency_ms))
        if self.min_tokens_per_second is not None:
            found.append(Constraint(cost="tokens_per_second", at_least=self.min_tokens_per_second))
        if self.max_peak_bytes is not None:
            found.append(Constraint(cost="peak_bytes", at_most=self.max_peak_bytes))
        if self.max_parameters is not None:
            found.append(Constraint(cost="parameters", at_most=self.max_parameters))
        return tuple(found)


class StudySpec(Frozen):
    """One study: everything that decides what it does. Written to and read from `study.toml`."""

    task: str = "lm"  # a language model, or a task with its options: "classify(text=review, label=stars)"
    data: DataSpec = DataSpec()
    validation_path: str | None = None  # of tasks: records to judge by; None: drawn, the share data.validation
    test_path: str | None = None  # of tasks: records that the finalists are measured on, which decide nothing
    drop_duplicates: bool = False  # of tasks: leave training records out whose text stands in validation or test
    epochs: Annotated[float, Field(gt=0)] | None = None  # of tasks: most passes of a run over its records; None: 30
    average: int = Field(default=1, ge=1)  # of tasks: the mean of the weights at so many evaluations is judged
    model: ModelSizes = ModelSizes()
    context: int = Field(default=64, ge=2)  # tokens a row holds
    batch: int = Field(default=12, ge=1)  # rows of a step
    budget: str = "10m"  # 10m, 2h or 50M-tokens
    steps: int | None = Field(default=None, ge=8)  # of a final run; None: what the budget allows
    search_steps: int | None = Field(default=None, ge=8)  # of a search trial; None: what the budget allows
    search_share: Annotated[float, Field(gt=0, lt=1)] = 0.45  # of the budget, for everything before the finals
    settings: Settings = Settings()  # of the untuned baseline
    tuning: TuningSpace = TuningSpace()
    regularizer: RegularizerSpec = RegularizerSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    baseline: str | None = None  # None: the attention of 2017, see `attentune.search.recipe`
    baseline_encoder: str | None = None  # of an encoder beside a decoder; None: the same, mask=full
    baseline_cross: str | None = None  # of what looks from a decoder to its encoder; None: heads=multi_head
    candidates: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # by slot; empty: the default space
    combinations: int = Field(default=4, ge=0)  # trials that combine the slots' best and second best
    margin: Annotated[float, Field(ge=0)] = 0.002  # that a candidate must gain to be kept: nats, or of the score
    seeds: tuple[int, ...] = (0, 1, 2)  # of the finals
    folds: int = Field(default=0, ge=0)  # finals on this many parts of the text instead; 0: on its validation part
    seed: int = Field(default=0, ge=0)  # of the search
    search_validation_tokens: int = Field(default=131_072, ge=64)  # a search trial is judged by at most these
    plugin: str | None = None  # Python file that adds mechanisms; it is run, so only name files you trust
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.02  # by which parameters may differ from the baseline's

    @field_validator("candidates", mode="before")
    @classmethod
    def _sites_may_be_tables(cls, candidates: Any) -> Any:
        return flattened(candidates)

    @field_validator("candidates")
    @classmethod
    def _slots_exist(cls, candidates: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        check_places(candidates)
        return candidates

    @model_validator(mode="after")
    def _task_has_its_own(self) -> StudySpec:
        if not self.is_task:
            for name in OF_TASKS:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f'{name} is for tasks: name one, as in task = "classify(label=stars)"')
        return self

    @model_validator(mode="after")
    def _pairs_suffice(self) -> StudySpec:
        parse_budget(self.budget)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {', '.join(map(str, self.seeds))}")
        if not self.folds and len(self.seeds) < FEWEST_SEEDS:
            raise ValueError(
                f"seeds: at least {FEWEST_SEEDS} are needed to tell a gain from noise, got {len(self.seeds)}"
            )
        if not self.folds and SEARCH_SEED + self.seed in self.seeds:
            raise ValueError(f"seeds: {SEARCH_SEED + self.seed} is the seed of the search (seed + {SEARCH_SEED})")
        if self.folds and self.folds < FEWEST_SEEDS:
            raise ValueError(f"folds must be 0 or at least {FEWEST_SEEDS}, got {self.folds}")
        return self

    @property
    def pairs(self) -> tuple[int, ...]:
        """What finals are paired over: seeds, or the numbers of the folds."""
        return tuple(range(self.folds)) if self.folds else self.seeds

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context

    @property
    def is_task(self) -> bool:
        """Whether there are records with answers to be learned, and not a text."""
        return self.task != "lm"

    def space(self, stack: Stack = "decoder") -> dict[str, tuple[str, ...]]:
        """The candidates by place, in the order in which the stages try them."""
        return in_order(self.candidates or default_candidates(self.context, stack))


def study_from_data(data: Mapping[str, Any], source: str = "study") -> StudySpec:
    """A study from the tables of a TOML file; SpecError names the file and the key."""
    try:
        return StudySpec(**data)
    except AttentuneError as error:
        raise SpecError(f"{source}: {error}") from None


def read_study(path: str | Path) -> StudySpec:
    """The study in the TOML file `path`.

    Raises:
        StudyError: there is no such file, or it cannot be read.
        SpecError: it is not TOML, or a value breaks a rule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StudyError(f"cannot read the study {path}: {reason}") from None
    return study_from_data(read_toml(text, path), str(path))


def study_text(spec: StudySpec) -> str:
    """`study.toml` of a study; `read_study` gives an equal value back."""
    return to_toml(spec)
