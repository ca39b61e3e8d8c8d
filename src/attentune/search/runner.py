"""One trial: a recipe becomes a model, the model is trained, and what came of it becomes a row of the ledger."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attentune.errors import AttentuneError, CheckpointError, KernelError, SpecError, StorageError
from attentune.evaluation.cost import parameter_count
from attentune.search.book import Outcome, Reporter
from attentune.search.matching import model_spec
from attentune.search.recipe import EVALUATIONS, Recipe, run_spec
from attentune.search.result import Scalar, Status, TrialRecord, TrialStage
from attentune.search.space import StudySpec
from attentune.search.subject import Judged, Subject
from attentune.training.loop import train
from attentune.training.reporting import Progress
from attentune.training.result import StopTraining


@dataclass(frozen=True)
class Job:
    """What a trial is to do."""

    stage: TrialStage
    arm: str
    recipe: Recipe
    steps: int
    seed: int
    label: int  # the seed, or the fold, that the ledger shows
    subject: Subject
    folder: Path  # of its checkpoints
    evaluations: int = EVALUATIONS


def run_trial(
    job: Job,
    spec: StudySpec,
    *,
    number: int,
    report: Reporter,
    device: str,
    trained: Progress,
) -> Outcome:
    """Trains and judges; what cannot be built is `refused`, what breaks while it trains is `failed`."""
    settings: dict[str, Scalar] = {"batch": spec.batch, "context": spec.context}
    started, subject = time.perf_counter(), job.subject

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
        described = model_spec(job.recipe, spec, subject.models)
        model = subject.models.build(described, seed=job.seed).to(device)
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

    run = run_spec(job.recipe, spec, steps=job.steps, seed=job.seed, evaluations=job.evaluations)
    final = job.stage == "evaluation" and not spec.folds  # each fold has records of its own, which its gain tells
    reason, curve = "", []

    def on_evaluation(step: int, loss: float) -> None:
        nonlocal reason
        found = subject.on_the_way(step, loss)
        if not math.isfinite(found):
            return
        curve.append((step * run.tokens_per_step, found))
        if report(step, found) and step < job.steps:
            reason = f"in the worse half after {step} of {job.steps} steps"
            raise StopTraining

    try:
        result = train(model, subject.source, run, folder=job.folder, on_evaluation=on_evaluation, progress=trained)
        judged = None if result.stopped else subject.judge(model, result, final=final)
        if judged is not None and not math.isfinite(judged.loss):
            return without_loss("failed", f"the validation {subject.measure.name} is not finite", count)
        costs = None if judged is None else subject.costs(described, run, torch.device(device))
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
        status="pruned" if judged is None else "complete",
        settings=settings,
        seeds=(job.label,),
        seconds=time.perf_counter() - started,
        parameters=count,
        latency_ms=None if costs is None else costs.latency_ms,
        peak_bytes=None if costs is None else costs.peak_bytes,
        tokens=len(result.losses) * run.tokens_per_step,
        tokens_per_second=result.tokens_per_second,
        curve=tuple(curve),
        reason=reason,
        **_judgement(judged, curve, subject),
    )
    return Outcome(record) if judged is None else Outcome(record, judged.by_position, judged.left_out)


def trained_model(job: Job, spec: StudySpec, *, device: str = "cpu") -> nn.Module:
    """The model of a finished trial whose checkpoints were kept."""
    subject = job.subject
    model = subject.models.build(model_spec(job.recipe, spec, subject.models), seed=job.seed).to(device)
    run = run_spec(job.recipe, spec, steps=job.steps, seed=job.seed)
    result = train(model, subject.source, run, folder=job.folder)  # which is over, and only restored
    subject.take(model, result)
    return model.to("cpu").eval()


def _judgement(judged: Judged | None, curve: list[tuple[int, float]], subject: Subject) -> dict[str, object]:
    """The fields of a record that say how good the model is; of a pruned one what it had come to."""
    measure = subject.measure
    if judged is None:
        same = measure.rises == measure.higher_is_better  # else what was seen on the way is something else
        return {"loss": curve[-1][1] if curve and same else None}
    return {
        "loss": judged.loss,
        "figures": judged.figures,
        "bits_per_character": judged.bits_per_character,
        "bits_per_byte": judged.bits_per_byte,
    }


def _raw(recipe: Recipe) -> str:
    """The slots as they were typed, for a recipe that may not even parse."""
    return ", ".join(f"{slot}={text}" for slot, text in recipe.slots)
