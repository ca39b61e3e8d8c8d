"""`optimize`: one study in six named stages, from a text or the records of a task to a trained and explained model.

    objective -> adaptivity -> long range -> parameters -> evaluation -> deployment

What each stage does stands in `attentune.search.stages`, `finals` and `deployment`. Everything lies in one folder:
`study.toml`, `study.db` (the book), `ledger.csv`, `result.json`, `report.html` and `best/`; of a task also `task/`,
with what its model gets wrong. Calling `optimize` again
with the same folder goes on where a killed study stopped, and returns at once when it is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from attentune.data.corpus import load_corpus
from attentune.errors import SpecError, StorageError, StudyError
from attentune.mechanisms import load_plugin, registry
from attentune.models.storage import atomic_write, prepare_folder, storage_errors
from attentune.search import finals as final_runs
from attentune.search import stages
from attentune.search.book import DATABASE, LEDGER, Book
from attentune.search.card import model_card
from attentune.search.comparison import Finals
from attentune.search.deployment import deploy, plan_text
from attentune.search.finals import deployed_job
from attentune.search.matching import model_spec
from attentune.search.pictures import ReportPictures
from attentune.search.progress import Quiet, StudyProgress
from attentune.search.protocol import protocol
from attentune.search.recipe import baseline_recipe, check_candidates
from attentune.search.report import write_report
from attentune.search.result import STAGES, ObjectiveResult, StageResult, StudyResult, tried
from attentune.search.runner import trained_model
from attentune.search.runs import Runs, pick_device
from attentune.search.space import StudySpec, study_text
from attentune.search.subject import Subject
from attentune.search.task_subject import open_task
from attentune.search.text_subject import TextSubject
from attentune.search.wording import ARM_NAMES

try:
    import fcntl
except ImportError:  # Windows: two processes on one study are not noticed there
    fcntl = None  # type: ignore[assignment]

CONFIG, RESULT, REPORT, BEST, LOCK, TRIALS = "study.toml", "result.json", "report.html", "best", ".lock", "trials"
TASK_REPORT = "task"
OWN = (DATABASE, f"{DATABASE}-journal", LEDGER, CONFIG, RESULT, REPORT, BEST, TRIALS, TASK_REPORT)


def optimize(
    spec: StudySpec,
    *,
    out: str | Path,
    resume: bool = True,
    progress: StudyProgress | None = None,
    command: str | None = None,
) -> StudyResult:
    """Finds the attention and the settings that serve a text, or a task, best; trains, checks, explains and saves them.

    Args:
        spec: everything that decides what the study does.
        out: its folder; made where there is none.
        resume: go on with the study in `out`; False removes it (and nothing else) and starts over.
        progress: told how the study goes; nothing is shown where None.
        command: what the report names as the command; by default that of this process.

    With a budget in tokens and as many threads, a study that is killed and goes on finds the same as one that is not.
    A budget in time is turned into steps by measuring the baseline's speed, once, and is kept to by giving the finals
    what is left; what was measured and decided is stored, so that it is not decided again.

    Raises:
        StudyError: `out` holds another study, or files of something else that a study would replace; another process
            is at work on it; or no baseline could be trained.
        DataError, SpecError: the text, the records or the spec cannot be used.
        StorageError: `out` cannot be written.
    """
    folder = prepare_folder(out)
    progress = progress or Quiet()
    with _locked(folder):
        _refuse_foreign(folder)
        if not resume:
            _remove(folder)
        if spec.plugin is not None:
            load_plugin(spec.plugin, registry)
        subject = open_subject(spec, progress)
        # Before the folder is claimed: a mistake in baseline or candidates must not leave a study that cannot go on.
        check_candidates(spec, subject.models.stack)
        model_spec(baseline_recipe(spec, subject.models.stack), spec, subject.models)
        book = Book(folder, seed=spec.seed)
        try:
            _claim(book, spec, subject, folder)
            done = _finished(folder)
            if done is not None:
                return done
            book.decided("command", lambda: command or shlex.join(["attentune", *sys.argv[1:]]))
            book.decided("started", lambda: datetime.now(UTC).isoformat())
            return _Study(spec, subject, book, progress, folder).run()
        finally:
            book.close()


def open_subject(spec: StudySpec, progress: StudyProgress) -> Subject:
    """The data of a study, read and tokenised.

    Raises:
        DataError, SpecError: see `load_corpus`, and `Task.fit`.
    """
    if spec.is_task:
        return open_task(spec, progress=progress.text_prepared)
    for name in ("lowercase", "header", "format"):
        if getattr(spec.data, name):
            raise SpecError(f'data.{name} is for tasks: name one, as in task = "classify(label=stars)"')
    return TextSubject(load_corpus(spec.data, context=spec.context, progress=progress.text_prepared))


@dataclass
class _Study:
    spec: StudySpec
    subject: Subject
    book: Book
    progress: StudyProgress
    folder: Path

    def run(self) -> StudyResult:
        runs = Runs(self.spec, self.subject, self.book, self.progress, device=pick_device())
        found = stages.objective(runs)
        stages.adaptivity(runs, found)
        stages.long_range(runs, found)
        candidate = stages.parameters(runs, found)
        finals = final_runs.evaluation(runs, found, candidate)
        return self.deployment(runs, finals)

    def deployment(self, runs: Runs, finals: Finals) -> StudyResult:
        """Ships what the finals chose (see `attentune.search.comparison`); then writes what there is to read."""
        self.progress.stage_started(
            "deployment", f"save the model of the {ARM_NAMES[finals.deployed]}, check it in a fresh process, report"
        )
        job = deployed_job(runs, finals, finals.deployed)
        subject = job.subject  # of a fold: what the others hold, the model was trained on
        model = trained_model(job, self.spec, device=runs.device)
        best = self.folder / BEST
        result = self._result(runs, finals).replace(plan=plan_text(model), sample=subject.sample(model))
        # The card describes the model that it lies beside.
        arm = {"winner": finals.winner, "tuned": finals.tuned, "baseline": finals.baseline}[finals.deployed]
        shipped = result.replace(winner=arm.replace(name="winner"))
        extra = {"run": {"study": result.name, "arm": finals.deployed, "seed": arm.seeds[0], "loss": arm.losses[0]}}
        check = deploy(model, subject, best, card=model_card(shipped), extra=extra, plugin=self.spec.plugin)
        answer = "the same logits" if check.passed else "different logits"
        stage = StageResult(
            name="deployment",
            summary=f"The model of the {ARM_NAMES[finals.deployed]} was saved in {best} and loaded by a fresh process, "
            f"which got {answer} (largest difference {check.max_logit_difference:.2g}).",
            seconds=check.seconds,
        )
        facts = {"study": f"the {finals.deployed} model of {self.folder.resolve().name}", "attention": arm.attention}
        subject.report(model, self.folder / TASK_REPORT, facts)
        baseline = trained_model(deployed_job(runs, finals, "baseline"), self.spec, device=runs.device)
        pictures = ReportPictures(
            baseline=subject.picture(baseline), winner=subject.picture(_winner_model(runs, finals, model))
        )
        result = result.replace(deployment=check, stages=(*result.stages, stage), finished=datetime.now(UTC))
        write_report(result, pictures, self.folder / REPORT)
        atomic_write(self.folder / CONFIG, study_text(self.spec))
        atomic_write(self.folder / RESULT, result.to_json())
        shutil.rmtree(self.folder / TRIALS, ignore_errors=True)
        self.progress.stage_ended(stage)
        return result

    def _result(self, runs: Runs, finals: Finals) -> StudyResult:
        spec, book = self.spec, self.book
        notes = [book.noted(f"stage {name}") for name in STAGES]
        regularizers = {name: value for name, value in spec.regularizer.model_dump().items() if value}
        candidate = "tuned" if finals.candidate else "could be trained" if tried(book.records()) else "was tried"
        return StudyResult(
            name=self.folder.resolve().name,
            task=spec.task,
            command=str(book.noted("command")),
            versions=_versions(),
            machine=_machine(runs.device),
            seeds=spec.pairs,
            study_seed=spec.seed,
            data=self.subject.data(spec.data.tokenizer),
            objective=ObjectiveResult(
                measure=runs.measure, constraints=spec.objective.constraints(), regularizers=regularizers
            ),
            protocol=protocol(spec, runs.subject, runs.searched.size, candidate=candidate),
            budget=spec.budget,
            tokens_used=runs.tokens_used,
            baseline=finals.baseline,
            tuned=finals.tuned,
            winner=finals.winner,
            ablations=finals.ablations,
            tuning=finals.tuning,
            attention=finals.attention,
            slots=finals.slots,
            stages=tuple(StageResult.model_validate(note) for note in notes if note is not None),
            trials=book.records(),
            deployed=finals.deployed,
            started=datetime.fromisoformat(str(book.noted("started"))),
            finished=datetime.now(UTC),
        )


def _winner_model(runs: Runs, finals: Finals, deployed: Any) -> Any:
    if finals.deployed == "winner" or finals.winner.attention == finals.tuned.attention:
        return deployed
    return trained_model(deployed_job(runs, finals, "winner"), runs.spec, device=runs.device)


def _claim(book: Book, spec: StudySpec, subject: Subject, folder: Path) -> None:
    """Makes the folder this study's, or refuses it where it is another's."""
    own = {
        "spec": spec.model_dump(mode="json", exclude={"data": {"path"}, "validation_path": True, "test_path": True}),
        "text": subject.fingerprint,
    }
    held = book.decided("identity", lambda: own)
    if held == json.loads(json.dumps(own)):
        return
    changes = [f"{name} was {_short(old)}, is {_short(new)}" for name, old, new in _differences(held, own)]
    more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
    raise StudyError(
        f"{folder} holds a study of another configuration: {'; '.join(changes[:3])}{more}; "
        "use another folder, or start over in this one (--restart)"
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, old, new) of every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = name if path in ("", "spec") else f"{path}.{name}"
            yield from _differences(old.get(name), new.get(name), inner)
    elif json.loads(json.dumps(old)) != json.loads(json.dumps(new)):
        yield path, old, new


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _finished(folder: Path) -> StudyResult | None:
    path = folder / RESULT
    if not path.is_file() or not (folder / REPORT).is_file() or not (folder / BEST).is_dir():
        return None
    return StudyResult.from_json(path.read_bytes(), where=str(path))


def _refuse_foreign(folder: Path) -> None:
    """Raises StudyError where the folder holds what a study would replace, and no study."""
    held = [name for name in OWN if (folder / name).exists()]
    if held and DATABASE not in held:
        raise StudyError(f"{folder} holds {held[0]}, but no study ({DATABASE}) that it could be of; use another folder")


def _remove(folder: Path) -> None:
    with storage_errors(folder):
        for name in OWN:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second process away from the folder; the system lets go of the lock however this one ends."""
    if fcntl is None:
        yield
        return
    with storage_errors(folder / LOCK):
        file = (folder / LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"another process is at work on the study in {folder}; wait for it, or use another folder"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot lock {folder}: {error.strerror}; use a local folder") from None
        yield


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("attentune", "torch", "optuna", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _machine(device: str) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "processor": platform.machine(),
        "cores": str(cores),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
    }
    if device == "cuda":
        found["accelerator"] = torch.cuda.get_device_name()
    return found
