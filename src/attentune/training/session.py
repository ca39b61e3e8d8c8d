"""What one run owns while it goes: everything a checkpoint must hold, and the ways to save and restore it."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from attentune.errors import TrainingError
from attentune.evaluation.language import LanguageScore
from attentune.layers.chosen import choose_kernels, chosen_kernels
from attentune.models.checkpoint import weights_of
from attentune.spec.run import RunSpec
from attentune.training.diagnostics import GradientRecord, likely_cause
from attentune.training.feed import StepData
from attentune.training.memory import detached, put_together, random_tensors, set_random, take_apart
from attentune.training.optimizers import build_optimizer
from attentune.training.reporting import peak_bytes
from attentune.training.result import Evaluation, TrainResult
from attentune.training.schedules import learning_rate_share
from attentune.training.source import Remembering, Source
from attentune.training.state import Snapshot, load_latest, load_tensors, require_same, save_snapshot
from attentune.training.watch import StepWatch


class Session:
    """The state of one run of `train`. `step` counts the optimizer steps done."""

    def __init__(self, model: nn.Module, source: Source, run: RunSpec, folder: Path | None) -> None:
        self.model, self.source, self.run, self.folder = model, source, run, folder
        self.device = device = next(model.parameters()).device
        self.numbers = resolved_precision(run.precision, device)
        self.optimizer = build_optimizer(model, run.optimizer)
        self.watch = StepWatch(losses=[], norms=[], device=device, broken=self._broken)
        self.has_memory = bool(getattr(model, "has_memory", False))
        self.step = 0
        self.evaluations: list[Evaluation] = []
        self.diagnostics: list[GradientRecord] = []
        self.final: LanguageScore | None = None
        self.stopped = False
        self.training_seconds = 0.0
        self._states: list[Any] = []  # memory, one a micro-batch
        self._data: StepData | None = None  # of the step under way, for the diagnosis
        self._earlier_seconds = 0.0
        self._begun = time.perf_counter()
        if isinstance(source, Remembering):
            source.remember({}, {})

    def begin(self, data: StepData) -> StepData:
        """A step begins with `data`; where it is fresh, memory is emptied."""
        self._data = data
        if data.fresh:
            self._states = [None] * len(data.parts)
        return data

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the model runs forward."""
        if self.numbers == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def carried(self, number: int) -> dict[str, Any]:
        """The memory that micro-batch `number` starts from, as a keyword argument of the model."""
        return {"state": self._states[number]} if self.has_memory else {}

    def carry(self, number: int, output: Any) -> None:
        """Keeps the memory that micro-batch `number` leaves behind."""
        if self.has_memory:
            self._states[number] = detached(output.state)

    def evaluate(self, *, last: bool) -> float:
        """The validation loss in nats per token, on everything held out if `last`; kept among the evaluations."""
        loss, score = self.source.evaluate(self.model, self.run, last=last)
        self.final = score if last else self.final
        self.evaluations.append(Evaluation(self.step, loss))
        return loss

    @property
    def tokens_per_second(self) -> float:
        """Training tokens per second of step time so far."""
        tokens = self.step * self.run.tokens_per_step
        return tokens / self.training_seconds if self.training_seconds else math.nan

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resumption; how often checkpoints are written does not matter."""
        spec = getattr(self.model, "spec", None)
        started = getattr(self.model, "started_from", None)
        return {
            **({} if started is None else {"start": started}),
            "run": {**self.run.model_dump(mode="json", exclude={"checkpoint_every"}), "precision": self.numbers},
            "model": spec.model_dump(mode="json") if spec is not None else {"class": type(self.model).__qualname__},
            "data": {"fingerprint": self.source.fingerprint},
        }

    def save(self) -> None:
        """Writes a checkpoint, unless the weights are spoilt: the last good one is worth more."""
        if self.folder is None:
            return
        self.watch.settle()
        weights = weights_of(self.model)
        if not all(torch.isfinite(w).all() for w in weights.values() if w.is_floating_point()):
            self._broken(self.step, "weights")
        memory, plain = take_apart(self._states if self.has_memory else [])
        kept, told = self.source.remembered() if isinstance(self.source, Remembering) else ({}, {})
        run_tensors = {
            "losses": torch.tensor(self.watch.losses, dtype=torch.float64),
            "norms": torch.tensor(self.watch.norms, dtype=torch.float64),
            **{f"random.{name}": tensor for name, tensor in random_tensors(self.device).items()},
            **{f"memory.{name}": tensor.clone() for name, tensor in memory.items()},
            **{f"kept.{name}": tensor for name, tensor in kept.items()},
        }
        progress = {
            "step": self.step,
            "identity": self.identity(),
            "memory": plain,
            "kept": told,
            "evaluations": [asdict(e) for e in self.evaluations],
            "diagnostics": [asdict(d) for d in self.diagnostics],
            "final": asdict(self.final) if self.final else None,
            "training_seconds": self.training_seconds,
            "seconds": self._seconds(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "kernels": chosen_kernels(self.model),
            "device": self.device.type,
        }
        tensors = {"model": weights, "optimizer": self.optimizer.tensors(), "run": run_tensors}
        save_snapshot(self.folder, Snapshot(self.step, tensors, progress))

    def resume(self) -> None:
        """Goes back to the last good checkpoint, if there is one."""
        assert self.folder is not None
        snapshot = load_latest(self.folder)
        if snapshot is None:
            return
        progress, stored = snapshot.progress, snapshot.tensors["run"]
        identity = self.identity()
        require_same(_read_anywhere(progress["identity"], identity), identity, self.folder)
        here = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        changed = [f"{name} {progress[name]}, now {here[name]}" for name in here if progress[name] != here[name]]
        if changed:
            warnings.warn(f"resuming with {'; '.join(changed)}: losses may differ in their last bits", stacklevel=3)
        if progress.get("device", self.device.type) == self.device.type:  # another one has kernels of its own
            choose_kernels(self.model, progress.get("kernels", {}))  # a machine measured meanwhile would choose others
        load_tensors(self.model, snapshot.tensors["model"])
        self.optimizer.load_tensors(snapshot.tensors["optimizer"])
        self.step = snapshot.step
        self.watch.losses[:] = stored["losses"].tolist()
        self.watch.norms[:] = stored["norms"].tolist()
        self.evaluations = [Evaluation(**e) for e in progress["evaluations"]]
        self.diagnostics = [
            GradientRecord(**{**d, "vanishing": tuple(d["vanishing"]), "exploding": tuple(d["exploding"])})
            for d in progress["diagnostics"]
        ]
        self.final = LanguageScore(**progress["final"]) if progress["final"] else None
        self.training_seconds = progress["training_seconds"]
        self._earlier_seconds = progress["seconds"]
        if self.has_memory:
            memory = {n.removeprefix("memory."): t for n, t in stored.items() if n.startswith("memory.")}
            self._states = put_together(self._memory_template(), memory, progress["memory"])
        if isinstance(self.source, Remembering):
            kept = {n.removeprefix("kept."): t for n, t in stored.items() if n.startswith("kept.")}
            self.source.remember(kept, progress["kept"])
        set_random({n.removeprefix("random."): t for n, t in stored.items() if n.startswith("random.")}, self.device)

    def result(self) -> TrainResult:
        """What the run has come to."""
        self.watch.settle()
        return TrainResult(
            losses=tuple(self.watch.losses),
            gradient_norms=tuple(self.watch.norms),
            evaluations=tuple(self.evaluations),
            final=self.final,
            diagnostics=tuple(self.diagnostics),
            tokens_per_second=self.tokens_per_second,
            seconds=self._seconds(),
            peak_bytes=peak_bytes(self.device),
            stopped=self.stopped,
        )

    def _seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._begun

    def _memory_template(self) -> list[Any]:
        """Memory as the model makes it, to be filled with what was stored."""
        feed = self.source.feed(self.run, has_memory=True, device=self.device)
        self.model.eval()
        with torch.no_grad():
            return [self.model(part.ids, part.layout, state=None).state for part in feed(0).parts]

    def _broken(self, step: int, what: str) -> NoReturn:
        run = self.run
        share = learning_rate_share(run.schedule, step=step - 1, steps=run.steps)

        def rerun() -> None:
            for part in self._data.parts if self._data is not None else ():
                with self.precision():
                    self.model(part.ids, part.layout, **part.inputs)

        cause = likely_cause(
            self.model,
            rerun=rerun,
            precision=self.numbers,
            learning_rate=run.optimizer.learning_rate * share,
            norms=self.watch.norms,
        )
        kept = f"; the last good checkpoint is in {self.folder}" if self.folder is not None else ""
        raise TrainingError(f"step {step}: the {what} is not finite: {cause}{kept}")


def resolved_precision(precision: str, device: torch.device) -> str:
    """`fp32` or `bf16`: what `auto` means on `device`. Without matrix units for it, bf16 is slower on a CPU."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _read_anywhere(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """`stored` with the path that the data are read from now, if they are the same: files may be moved."""
    if stored.get("data") != current["data"]:
        return stored
    run = stored["run"]
    return {**stored, "run": {**run, "data": {**run["data"], "path": current["run"]["data"]["path"]}}}
