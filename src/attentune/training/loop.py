"""The training loop, readable top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from attentune.data.corpus import Corpus
from attentune.errors import TrainingError
from attentune.models.storage import prepare_folder
from attentune.spec.run import RunSpec
from attentune.training.clipping import Clipper
from attentune.training.diagnostics import gradient_flow
from attentune.training.losses import cross_entropy, disagreement
from attentune.training.optimizers import decaying_parameters
from attentune.training.regularizers import add_penalty_gradients, with_auxiliary
from attentune.training.reporting import REPORT_EVERY, Progress, report, track, track_flow
from attentune.training.result import StopTraining, TrainResult
from attentune.training.schedules import learning_rate_share
from attentune.training.session import Session
from attentune.training.source import Remembering, Source, TextSource
from attentune.training.start import warn_of_drowned_tokens
from attentune.training.state import remove_checkpoints
from attentune.training.trackers import Tracker


def train(
    model: nn.Module,
    source: Corpus | Source,
    run: RunSpec,
    *,
    folder: str | Path | None = None,
    resume: bool = True,
    trackers: Sequence[Tracker] = (),
    on_evaluation: Callable[[int, float], None] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains `model` in place on `source` as `run` says, where the model is; leaves it in evaluation mode.

    Args:
        model: called as `model(ids, layout)`, and with `state=` if its `has_memory` is true.
        source: what to train on and be measured by; a corpus is its training text, measured on its validation text.
        run: every number of the run; `run.seed` decides batches and dropout.
        folder: where checkpoints go; None keeps none.
        resume: go on from the last good checkpoint in `folder`, bit for bit on the CPU with as many threads as before;
            False removes the checkpoints there and starts over.
        trackers: told the numbers as they come.
        on_evaluation: called with (step, validation loss in nats per token); after a resumption it is first told
            again what was evaluated before. It may raise `StopTraining`.
        progress: see `Progress`.

    Raises:
        TrainingError: the checkpoints are of another run, model or text; or a loss or gradient is no longer finite,
            with the step and the likely cause. The last good checkpoint stays.
        CheckpointError: the folder's checkpoints are damaged or foreign.
        StorageError: the folder cannot be written.
    """
    device = next(model.parameters()).device
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators):  # the caller's random numbers stay as they were
        torch.manual_seed(run.seed)
        source = TextSource(source) if isinstance(source, Corpus) else source
        if run.average > 1 and not isinstance(source, Remembering):
            raise TrainingError(f"average={run.average} is for tasks, whose best weights are kept; leave it at 1 here")
        session = Session(model, source, run, prepare_folder(folder) if folder is not None else None)
        if session.folder is not None:
            session.resume() if resume else remove_checkpoints(session.folder)
        if session.step == 0:
            warn_of_drowned_tokens(model)
        for tracker in trackers:
            tracker.start(session.identity(), step=session.step)
        try:
            _steps(session, trackers, on_evaluation, progress)
        except StopTraining:
            session.stopped = True
        finally:
            model.eval()
            for tracker in trackers:
                tracker.finish()
        return session.result()


def _steps(
    session: Session,
    trackers: Sequence[Tracker],
    on_evaluation: Callable[[int, float], None] | None,
    progress: Progress | None,
) -> None:
    model, run, optimizer, watch = session.model, session.run, session.optimizer, session.watch
    feed = session.source.feed(run, has_memory=session.has_memory, device=session.device)
    if run.compile and getattr(model, "halting", None) is not None:
        raise TrainingError(
            "compile=true does not go with a model that halts tokens: how many go on depends on the text; turn one off"
        )
    if run.regularizer.consistency and session.has_memory:
        raise TrainingError(
            "regularizer.consistency reads a batch twice, and this model's memory would hold it twice; turn one off"
        )
    forward = torch.compile(model) if run.compile else model
    clip = Clipper(model, run.clip)
    decaying = decaying_parameters(model)
    for past in session.evaluations:
        _told(session, on_evaluation, past.step, past.loss)
    model.train()

    while session.step < run.steps:
        begun = time.perf_counter()
        data = session.begin(feed(session.step))

        optimizer.zero_grad()
        losses: list[tuple[Tensor, Tensor]] = []
        for number, part in enumerate(data.parts):
            with session.precision():
                output = forward(part.ids, part.layout, **part.inputs, **session.carried(number))
                loss = cross_entropy(output.logits, part, run.regularizer.label_smoothing)
                total = with_auxiliary(loss, output.losses, part.share)
                if run.regularizer.consistency:
                    again = forward(part.ids, part.layout, **part.inputs)
                    other = cross_entropy(again.logits, part, run.regularizer.label_smoothing)
                    total = 0.5 * (total + with_auxiliary(other, again.losses, part.share))
                    total = total + run.regularizer.consistency * disagreement(output.logits, again.logits, part)
            total.backward()
            session.carry(number, output)
            losses.append((loss.detach(), total.detach()))
        add_penalty_gradients(decaying, run.regularizer)

        step = session.step + 1
        if run.diagnose_every and step % run.diagnose_every == 0:
            session.diagnostics.append(gradient_flow(model, step=step))
            track_flow(trackers, session.diagnostics[-1])
        norm = clip()
        watch.add(*_summed(losses), norm)
        share = learning_rate_share(run.schedule, step=session.step, steps=run.steps)
        optimizer.step(share)
        session.step = step
        session.training_seconds += time.perf_counter() - begun

        last = step == run.steps
        if step % REPORT_EVERY == 0 or last:
            watch.settle()
            report(
                trackers,
                progress,
                step=step,
                steps=run.steps,
                losses=watch.losses,
                norms=watch.norms,
                learning_rate=run.optimizer.learning_rate * share,
                tokens_per_second=session.tokens_per_second,
            )
        evaluated = step % run.evaluate_every == 0 or last
        if evaluated:
            validation = session.evaluate(last=last)
            track(trackers, step, {"validation/loss": validation})
        if step % run.checkpoint_every == 0 or last:
            session.save()
        if evaluated:
            _told(session, on_evaluation, step, validation)
            model.train()


def _summed(losses: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The loss and the objective of the whole step from those of its micro-batches."""
    if len(losses) == 1:
        return losses[0]
    first, second = zip(*losses, strict=True)
    return torch.stack(first).sum(), torch.stack(second).sum()


def _told(session: Session, on_evaluation: Callable[[int, float], None] | None, step: int, loss: float) -> None:
    """Calls back, keeping whatever random numbers the callback draws out of the training."""
    if on_evaluation is not None:
        with torch.random.fork_rng(devices=[session.device] if session.device.type == "cuda" else []):
            on_evaluation(step, loss)
