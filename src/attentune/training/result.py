"""What training gives back."""

from __future__ import annotations

from dataclasses import dataclass

from attentune.evaluation.language import LanguageScore
from attentune.training.diagnostics import GradientRecord


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by `on_evaluation` to end training early; `train` then returns with `stopped=True`."""


@dataclass(frozen=True)
class Evaluation:
    """Validation loss in nats per token after `step` optimizer steps."""

    step: int
    loss: float


@dataclass(frozen=True)
class TrainResult:
    """One run, the same whether it went through in one go or was killed and resumed (times and memory aside).

    - `losses`: training cross-entropy of every step, nats per token, smoothed if label smoothing is on, without
      penalties and auxiliary losses; `gradient_norms` beside it, before clipping, nan where clipping needed none.
    - `evaluations`: validation losses on the way (on `evaluate_tokens` tokens) and, last, on all of the text.
    - `final`: the score on the whole validation text; None when stopped early.
    - `tokens_per_second`: training tokens per second of step time, evaluations and checkpoints left out.
    - `seconds`: wall time of everything, over all resumptions.
    - `peak_bytes`: on CUDA the most memory that tensors held; on the CPU the peak resident memory of the whole process
      since it started (libraries included), as the system counts it. 0 where it does not tell.
      `evaluation.cost` has a cleaner measure.
    """

    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    final: LanguageScore | None
    diagnostics: tuple[GradientRecord, ...]
    tokens_per_second: float
    seconds: float
    peak_bytes: int
    stopped: bool
