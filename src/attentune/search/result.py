"""What a study found: frozen values that hold everything the ledger, the report and the card tell.

Units: losses and gains are nats per token, lower losses are better, and a positive gain means that the loss fell. Of a
task what is called loss is minus its score (see `Measure`), so that a positive gain means that the score rose. Times
are seconds unless the name says milliseconds; memory is bytes. `StudyResult.to_json` and `StudyResult.from_json` are
exact inverses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, FiniteFloat, ValidationError, model_validator

from attentune.errors import StudyError
from attentune.spec.value import Frozen, spec_error

Scalar = bool | int | float | str
Stage = Literal["objective", "adaptivity", "long range", "parameters", "evaluation", "deployment"]
TrialStage = Literal["objective", "adaptivity", "long range", "parameters", "evaluation"]
Status = Literal["complete", "pruned", "failed", "refused"]
Verdict = Literal["gain", "loss", "noise"]
Cost = Literal["parameters", "latency_ms", "seconds", "tokens_per_second", "peak_bytes", "tokens"]

STAGES: tuple[Stage, ...] = ("objective", "adaptivity", "long range", "parameters", "evaluation", "deployment")

FEWEST_SEEDS = 3  # two pairs have one degree of freedom: a quantile of 12.7 tells nothing about neural networks

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]
Curve = tuple[tuple[Count, FiniteFloat], ...]  # (training tokens so far, validation nats per token)


class Measure(Frozen):
    """What a study judges by.

    Lower is better for everything that is kept, so of a score where higher is better the negative is kept; `shown`
    gives the score back.
    """

    name: str = "loss"  # or the name of a task's score
    unit: str = "nats per token"  # empty where the score has none
    higher_is_better: bool = False
    on_the_way: str = "validation loss, nats per token"  # what is measured in training, for learning curves
    rises: bool = False  # whether more of that is better
    latency: str = "latency of one token"
    answers: Annotated[int, Field(ge=1)] | None = None  # that a score counts; None: a mean over very many tokens
    best: Annotated[float, Field(gt=0)] = 1.0  # the score of answers that are all right

    def shown(self, loss: float) -> float:
        """What people call the number that is kept as `loss`."""
        return -loss if self.higher_is_better else loss

    def text(self, loss: float | None) -> str:
        """The same, with four digits after the point; a dash where it is unknown."""
        return "–" if loss is None else f"{self.shown(loss):.4f}"

    @property
    def of_unit(self) -> str:
        """The unit behind a number, with a space before it."""
        return f" {self.unit}" if self.unit else ""

    @property
    def goal(self) -> str:
        """`minimise validation loss (nats per token)`, `maximise validation accuracy`."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{'maximise' if self.higher_is_better else 'minimise'} validation {self.name}{unit}"


class TrialRecord(Frozen):
    """One training run of the study, or one that was refused before it began.

    A trial of a finalist belongs to the arm `final:<name of its ArmResult>` and holds one seed, so that its curve
    is the curve of that seed.
    """

    number: Count
    stage: TrialStage
    arm: str  # "baseline", "candidate", "final:baseline", "final:tuned", "final:winner", "final:without position" ...
    status: Status
    # flat and read only: attention (text form), learning_rate, optimizer, schedule, batch, width ...
    settings: dict[str, Scalar] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    loss: FiniteFloat | None = None  # what the study minimises, see Measure; None where the run never got that far
    figures: dict[str, FiniteFloat] = Field(default_factory=dict)  # of a task: all that its scores say, by name
    bits_per_character: FiniteFloat | None = None
    bits_per_byte: FiniteFloat | None = None
    tokens: Count = 0  # trained on
    seconds: Amount = 0.0
    tokens_per_second: Amount | None = None  # of training
    parameters: Count | None = None
    latency_ms: Amount | None = None  # of one generated token, milliseconds
    peak_bytes: Count | None = None
    curve: Curve = ()
    reason: str = ""  # why it was pruned, failed or refused

    @model_validator(mode="after")
    def _complete_has_a_loss(self) -> Self:
        if self.status == "complete" and self.loss is None:
            raise ValueError(f"a complete trial has a loss, trial {self.number} has none")
        if self.status in ("failed", "refused") and not self.reason:
            raise ValueError(f"a {self.status} trial says why, trial {self.number} has no reason")
        return self

    @property
    def attention(self) -> str:
        """The attention in its text form, empty where the settings do not hold it."""
        return str(self.settings.get("attention", ""))


def tried(trials: Sequence[TrialRecord]) -> bool:
    """Whether any candidate attention was trained at all."""
    return any(trial.arm == "candidate" and trial.status != "refused" for trial in trials)


class ArmResult(Frozen):
    """One finalist: the same attention and settings trained once for every seed."""

    name: str  # "baseline", "tuned", "winner", "without position" ...
    attention: str  # text form
    settings: dict[str, Scalar] = Field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    losses: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]  # one for each seed, see Measure
    # of a task: for each seed the losses with each part of the records left out, or empty; see `drawing_band`
    left_out: tuple[tuple[FiniteFloat, ...], ...] = ()
    figures: dict[str, tuple[FiniteFloat, ...]] = Field(default_factory=dict)  # of a task, one for each seed
    bits_per_character: tuple[FiniteFloat, ...] = ()  # one for each seed, or empty
    bits_per_byte: tuple[FiniteFloat, ...] = ()
    parameters: Count | None = None
    latency_ms: Amount | None = None
    tokens_per_second: Amount | None = None
    seconds: Amount | None = None  # of training, mean over the seeds
    peak_bytes: Count | None = None

    @model_validator(mode="after")
    def _one_number_per_seed(self) -> Self:
        for name in ("losses", "left_out", "bits_per_character", "bits_per_byte"):
            numbers = getattr(self, name)
            if len(numbers) != len(self.seeds) and (numbers or name == "losses"):
                raise ValueError(f"{name} needs one number for each seed, got {len(numbers)} for {len(self.seeds)}")
        for name, numbers in self.figures.items():
            if len(numbers) != len(self.seeds):
                raise ValueError(f"{name} needs one number for each seed, got {len(numbers)} for {len(self.seeds)}")
        return self

    @property
    def loss(self) -> float:
        """The mean over the seeds."""
        return sum(self.losses) / len(self.losses)


class Difference(Frozen):
    """What one change bought: the paired gain over the seeds or folds, with its noise band.

    Made by `attentune.search.analysis.difference`. `band` is the half-width of the 95 % confidence interval of the mean
    gain, of a score never less than its records leave open at least; None where a single seed leaves it unknown.
    """

    what: str  # "tuning", "attention", or the name of a slot
    detail: str = ""  # what was exchanged for what, e.g. "position=rotary -> none"
    gain: FiniteFloat  # mean over the pairs, in the unit of what is judged by; positive is better
    band: Amount | None
    gains: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]  # one for each seed or fold
    seeds: tuple[int, ...]  # or the numbers of the folds
    verdict: Verdict  # on the gain alone
    folds: Count = 0  # into which the data were parted, each held out by one pair; 0: the pairs are seeds
    saved: FiniteFloat = 0.0  # by lower costs, at the objective's prices, in the unit of the gain

    @property
    def enough_seeds(self) -> bool:
        """Whether there are enough pairs to tell a gain from noise at all."""
        return len(self.gains) >= FEWEST_SEEDS


class Constraint(Frozen):
    """A bound that the objective puts on a cost."""

    cost: Cost
    at_most: FiniteFloat | None = None
    at_least: FiniteFloat | None = None

    def met_by(self, value: float) -> bool:
        """Whether `value`, in the unit of the cost, keeps the bound."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


class ObjectiveResult(Frozen):
    """What the study made as good as it could, under which bounds."""

    measure: Measure = Measure()
    constraints: tuple[Constraint, ...] = ()
    regularizers: dict[str, float] = Field(default_factory=dict)  # name -> strength, those that were on for every arm


class StageResult(Frozen):
    """What happened in one of the six stages, in a sentence or two for the reader of the report."""

    name: Stage
    summary: str
    decision: str = ""  # what was carried on to the next stage
    seconds: Amount = 0.0
    tokens: Count = 0


class DataResult(Frozen):
    """The text that the study ran on."""

    description: str  # e.g. "tinyshakespeare.txt, 1 document"
    fingerprint: str
    tokenizer: str
    vocabulary: Count
    train_tokens: Count
    validation_tokens: Count
    train_records: Count | None = None  # of a task
    validation_records: Count | None = None
    test_records: Count | None = None


class DeploymentCheck(Frozen):
    """Whether the saved model, loaded by a fresh process, gives the logits that the trained one gave."""

    model: str  # folder of the saved model
    max_logit_difference: Amount
    tolerance: Amount
    passed: bool
    seconds: Amount = 0.0


class Sample(Frozen):
    """Text that the winner generated, or of a task what it predicted."""

    prompt: str
    text: str  # the continuation alone
    settings: str = ""  # e.g. "temperature 0.8, top-k 50, seed 0"


class StudyResult(Frozen):
    """Everything a study found."""

    name: str
    task: str
    command: str  # exactly as typed
    versions: dict[str, str]  # "attentune", "python", "torch" ...
    machine: dict[str, str]  # "processor", "cores", "memory", "system" ...
    seeds: tuple[int, ...]  # of the paired runs of the finalists, or the numbers of their folds
    study_seed: int = 0
    data: DataResult
    objective: ObjectiveResult = ObjectiveResult()
    protocol: tuple[str, ...] = ()  # what makes the comparison fair, one sentence each
    budget: str  # as asked for, e.g. "10m" or "50M-tokens"
    tokens_used: Count
    baseline: ArmResult  # with its customary settings
    tuned: ArmResult  # the same attention with its own tuned settings
    winner: ArmResult  # the best candidate; where there was none, the tuned baseline once more
    ablations: tuple[ArmResult, ...] = ()  # the winner with one slot switched off
    tuning: Difference  # baseline -> tuned
    attention: Difference  # tuned -> winner
    slots: tuple[Difference, ...] = ()  # winner without the slot -> winner
    stages: tuple[StageResult, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    sample: Sample | None = None
    plan: str = ""  # the explanation of the kernel plan, plain text
    deployed: Literal["baseline", "tuned", "winner"] | None = None  # the arm whose model is shipped
    deployment: DeploymentCheck | None = None
    started: AwareDatetime
    finished: AwareDatetime

    @property
    def seconds(self) -> float:
        """Wall time of the study from start to end."""
        return (self.finished - self.started).total_seconds()

    @property
    def folds(self) -> int:
        """How many folds the finals were run on; 0 where they were run with several seeds."""
        return self.tuning.folds

    @property
    def has_candidate(self) -> bool:
        """Whether a candidate attention was among the finalists."""
        return self.winner.attention != self.tuned.attention

    def finals(self, arm: str) -> tuple[TrialRecord, ...]:
        """The complete trials of the finalist `arm` (the name of its `ArmResult`), one for each seed."""
        return tuple(trial for trial in self.trials if trial.arm == f"final:{arm}" and trial.status == "complete")

    def to_json(self) -> str:
        """The whole result as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "study result") -> Self:
        """The result that `to_json` wrote; `where` names the source in the StudyError for text that is none."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise StudyError(f"{where} cannot be read: {spec_error(error, cls)}") from None
