"""One trial: a recipe becomes a model, the model is trained, and what came of it becomes a row of the ledger."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, validation_batches
from attentune.data.corpus import Corpus
from attentune.errors import AttentuneError, CheckpointError, KernelError, SpecError, StorageError
from attentune.evaluation.cost import median_seconds, parameter_count, training_cost
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.search.book import Outcome, Reporter
from attentune.search.recipe import Recipe, model_spec, run_spec
from attentune.search.result import Scalar, Status, TrialRecord, TrialStage
from attentune.search.space import StudySpec
from attentune.spec.model import ModelSpec
from attentune.training.loop import train
from attentune.training.reporting import Progress
from attentune.training.result import StopTraining, TrainResult

PARTS = 8  # of the context, for the loss by position
POSITION_TOKENS = 16_384  # validation tokens that the loss by position is measured on
MEASURED_TOKENS = 8  # single tokens timed for the latency


@dataclass(frozen=True)
class Job:
    """What a trial is to do."""

    stage: TrialStage
    arm: str
    recipe: Recipe
    steps: int
    seed: int
    label: int  # the seed, or the fold, that the ledger shows
    corpus: Corpus
    folder: Path  # of its checkpoints


def run_trial(
    job: Job,
    spec: StudySpec,
    *,
    number: int,
    report: Reporter,
    device: str,
    trained: Progress,
) -> Outcome:
    """Trains and measures; what cannot be built is `refused`, what breaks while it trains is `failed`."""
    settings: dict[str, Scalar] = {"batch": spec.batch, "context": spec.context}
    started = time.perf_counter()

    def without_loss(status: Status, reason: str, parameters: int | None = None) -> Outcome:
        return Outcome(
            TrialRecord(
                number=number,
                stage=job.stage,
                arm=job.arm,
                status=status,
                settings=settings,
                seeds=(job.label,),
                seconds=time.perf_counter() - started,
                parameters=parameters,
                reason=reason,
            )
        )

    try:
        settings = {**settings, "attention": _raw(job.recipe), **job.recipe.flat()}
        described = model_spec(job.recipe, spec, vocab_size=job.corpus.vocab_size)
        model = build(described, seed=job.seed).to(device)
    except (SpecError, KernelError) as error:
        return without_loss("refused", str(error))
    settings = {
        **settings,
        "width": described.width,
        "feed_forward_hidden": described.feed_forward.hidden_width(described.width),
        "steps": job.steps,
    }
    count = parameter_count(model)
    bound = spec.objective.max_parameters
    if bound is not None and count > bound:
        return without_loss("refused", f"{count:,} parameters, the objective allows {bound:,.0f}", count)

    run = run_spec(job.recipe, spec, steps=job.steps, seed=job.seed)
    reason = ""

    def on_evaluation(step: int, loss: float) -> None:
        nonlocal reason
        if not math.isfinite(loss):
            return
        if report(step, loss) and step < job.steps:
            reason = f"in the worse half after {step} of {job.steps} steps"
            raise StopTraining

    try:
        result = train(model, job.corpus, run, folder=job.folder, on_evaluation=on_evaluation, progress=trained)
        if result.final is not None and not math.isfinite(result.final.nats_per_token):
            return without_loss("failed", "the validation loss is not finite", count)
        costs = None if result.stopped else _costs(described, spec.batch, spec.context, device)
        parts = () if result.stopped else loss_by_position(model, job.corpus, spec.context)
    except (StorageError, CheckpointError):
        raise
    except AttentuneError as error:
        return without_loss("failed", str(error), count)
    except Exception as error:  # a mechanism with a bug must not end a study of hours
        reason = " ".join(str(error).split()) or "no message"
        return without_loss("failed", f"{type(error).__name__}: {reason[:300]}", count)
    record = TrialRecord(
        number=number,
        stage=job.stage,
        arm=job.arm,
        status="pruned" if result.stopped else "complete",
        settings=settings,
        seeds=(job.label,),
        seconds=time.perf_counter() - started,
        parameters=count,
        latency_ms=None if costs is None else costs.latency_ms,
        peak_bytes=None if costs is None else costs.peak_bytes,
        reason=reason,
        **_scores(result, run.tokens_per_step),
    )
    return Outcome(record, parts)


def trained_model(job: Job, spec: StudySpec, *, device: str = "cpu") -> Decoder:
    """The model of a finished trial whose checkpoints were kept."""
    model = build(model_spec(job.recipe, spec, vocab_size=job.corpus.vocab_size), seed=job.seed).to(device)
    run = run_spec(job.recipe, spec, steps=job.steps, seed=job.seed)
    train(model, job.corpus, run, folder=job.folder)  # which is over, and only restored
    return model.to("cpu").eval()


@dataclass(frozen=True)
class Costs:
    """Latency of one generated token in milliseconds where the model can decode, and the peak of a training step."""

    latency_ms: float | None
    peak_bytes: int


@lru_cache(maxsize=64)
def _costs(described: ModelSpec, batch: int, context: int, device: str) -> Costs:
    """Measured once for every model, with untrained weights, which cost the same."""
    model = build(described, seed=0).to(device).eval()
    cost = training_cost(model, vocab_size=described.vocab_size, batch=batch, context=context, repeats=1)
    return Costs(token_latency(model, context), cost.peak_bytes)


@torch.inference_mode()
def token_latency(model: Decoder, context: int) -> float | None:
    """Median milliseconds that one more token of one row takes after half a context; None where it cannot decode."""
    device = next(model.parameters()).device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    repeats = max(1, min(MEASURED_TOKENS, context // 2 - 1))
    try:
        state = model.start(1)
        model(token.expand(1, max(1, context // 2)), state=state)
        return 1e3 * median_seconds(lambda: model(token, state=state), repeats=repeats, device=device, warmup=0)
    except AttentuneError:
        return None


@torch.no_grad()
def loss_by_position(model: nn.Module, corpus: Corpus, context: int) -> tuple[float, ...]:
    """Mean validation loss in nats per token over each part of the context, from its start on.

    What falls from part to part is what a longer past is worth to this model. Empty for a model with memory, whose
    windows do not begin without a past, and for contexts shorter than the number of parts.
    """
    if getattr(model, "has_memory", False) or context < PARTS:
        return ()
    model.eval()
    device = next(model.parameters()).device
    total, count = torch.zeros(context, dtype=torch.float64), torch.zeros(context, dtype=torch.float64)
    for batch in validation_batches(corpus.validation, context=context, batch=32, limit=POSITION_TOKENS):
        targets = batch.targets.to(device)
        logits = model(batch.ids.to(device)).logits.float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
        total += losses.view_as(targets).double().sum(0).cpu()
        count += (targets != IGNORED).double().sum(0).cpu()
    pieces = zip(total.tensor_split(PARTS), count.tensor_split(PARTS), strict=True)
    return tuple(float(losses.sum() / counts.sum().clamp(min=1)) for losses, counts in pieces)


def _scores(result: TrainResult, tokens_per_step: int) -> dict[str, object]:
    """The fields of a record that say how training went."""
    curve = tuple((one.step * tokens_per_step, one.loss) for one in result.evaluations if math.isfinite(one.loss))
    final = result.final
    return {
        "loss": final.nats_per_token if final is not None else curve[-1][1] if curve else None,
        "bits_per_character": final.bits_per_character if final is not None else None,
        "bits_per_byte": final.bits_per_byte if final is not None else None,
        "tokens": len(result.losses) * tokens_per_step,
        "tokens_per_second": result.tokens_per_second,
        "curve": curve,
    }


def _raw(recipe: Recipe) -> str:
    """The slots as they were typed, for a recipe that may not even parse."""
    return ", ".join(f"{slot}={text}" for slot, text in recipe.slots)
