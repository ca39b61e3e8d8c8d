"""The book of a study: `study.db`, in which every trial and every decision is kept the moment it is made.

A study is replayed from its beginning whenever its command runs. Each step has a key; what the book holds under it is
taken as it stands, and only what is missing is done. A trial that a kill has interrupted keeps its number and its
parameters, and its training goes on from the last checkpoint. One that had not even got its parameters is dropped,
and drawn again from the same seed, to the same parameters.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from attentune.errors import AttentuneError, StudyError
from attentune.models.storage import storage_error, storage_errors
from attentune.search.ledger import write_ledger
from attentune.search.recipe import EVALUATIONS
from attentune.search.result import TrialRecord
from attentune.search.strategy import Halving, Parameters, fixing, make_sampler

DATABASE, LEDGER = "study.db", "ledger.csv"

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "refused": TrialState.FAIL,
}

_SYSTEM = {  # what SQLite says, and the system's error that is behind it
    "disk is full": errno.ENOSPC,
    "disk i/o error": errno.EIO,
    "readonly database": errno.EACCES,
    "unable to open database": errno.EACCES,
}


@dataclass(frozen=True)
class Outcome:
    """A finished trial: its row of the ledger, and its loss by position in the context where that was measured."""

    record: TrialRecord
    by_position: tuple[float, ...] = ()  # nats per token in equal parts of the context, from its start on
    left_out: tuple[float, ...] = ()  # of a final of a task: the losses with each part of the records left out

    @property
    def loss(self) -> float | None:
        """The loss of a complete trial."""
        return self.record.loss if self.record.status == "complete" else None


class Reporter:
    """Where a running trial reports its losses, and asks whether to go on."""

    def __init__(self, study: optuna.Study, trial: Trial, *, prunes: bool, database: Path) -> None:
        self._trial, self._prunes, self._database = trial, prunes, database
        self._known = dict(study._storage.get_trial(trial._trial_id).intermediate_values)

    def __call__(self, step: int, loss: float) -> bool:
        """Stores the validation `loss` after `step` steps; True where the trial should end."""
        if not self._prunes:
            return False
        with database_errors(self._database):
            if step not in self._known:
                self._trial.report(loss, step)
                self._known[step] = loss
            return step == max(self._known) and self._trial.should_prune()


class Book:
    """The trials and decisions of the study in `folder`; made where there is none."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.seed = folder, seed
        self._database = folder / DATABASE
        self.outcomes: dict[str, Outcome] = {}
        self._parameters: dict[str, Parameters] = {}
        with storage_errors(self._database):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except (OSError, AttentuneError):
                raise
            except Exception as error:  # whatever optuna, SQLite or JSON make of a file that is none of ours
                raise _database_error(error, self._database) from error
        if self.outcomes:  # a kill may have struck between the last outcome and its row
            write_ledger(folder / LEDGER, self.records())

    def _open(self) -> None:
        self._storage = RDBStorage(f"sqlite:///{self._database.resolve()}")
        self._studies = {study.study_name: study.study_name for study in self._storage.get_all_studies()}
        self._decisions = self._study("decisions")
        for trial in self._all():
            if "outcome" in trial.user_attrs:
                key = trial.user_attrs["key"]
                self.outcomes[key] = _outcome(trial.user_attrs["outcome"])
                self._parameters[key] = json.loads(trial.user_attrs["parameters"])

    def close(self) -> None:
        """Lets go of the database file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def decided(self, key: str, decide: Callable[[], Any]) -> Any:
        """What was decided under `key`: plain data, stored the first time that it is asked for."""
        known = self._decisions.user_attrs
        if key not in known:
            self.note(key, decide())
            known = self._decisions.user_attrs
        return json.loads(known[key])

    def note(self, key: str, value: Any) -> None:
        """Stores plain data under `key`, replacing what stood there."""
        with database_errors(self._database):
            self._decisions.set_user_attr(key, json.dumps(value))

    def noted(self, key: str, default: Any = None) -> Any:
        """The plain data under `key`."""
        known = self._decisions.user_attrs
        return json.loads(known[key]) if key in known else default

    def parameters(self, key: str) -> Parameters:
        """What the finished trial `key` drew or was given."""
        return dict(self._parameters[key])

    def records(self) -> tuple[TrialRecord, ...]:
        """Every finished trial in the order of the numbers."""
        return tuple(sorted((outcome.record for outcome in self.outcomes.values()), key=lambda one: one.number))

    def trial(
        self,
        phase: str,
        key: str,
        run: Callable[[int, Parameters, Reporter], Outcome],
        *,
        distributions: Mapping[str, BaseDistribution] | None = None,
        given: Parameters | None = None,
        steps: int,
        evaluations: int = EVALUATIONS,
        rivals: Sequence[TrialRecord] = (),
        prunes: bool = True,
    ) -> Outcome:
        """The outcome of the trial `key`: from the book, or by calling `run(number, parameters, reporter)`.

        Args:
            phase: trials of one phase learn from each other, and are pruned against each other.
            key: names the trial; unique in the study.
            run: does the work; it may be called again after a kill, with the same number and parameters.
            distributions: what the sampler chooses from.
            given: choices that are not left to the sampler.
            steps: of a full trial, from which the rungs follow.
            evaluations: of a full trial, some of which are the rungs.
            rivals: trials of other phases that it is measured against.
            prunes: whether it may be ended early.
        """
        if key in self.outcomes:
            return self.outcomes[key]
        with database_errors(self._database):
            study = self._study(phase)
            study.pruner = Halving(steps, [_by_step(rival, steps) for rival in rivals], evaluations=evaluations)
            found = self._interrupted(study, key) or self._begin(study, key, distributions or {}, given or {})
            stored = found.user_attrs
            # A trial object made for a stored trial takes its parameters from there; the sampler is asked for nothing.
            study.sampler = optuna.samplers.RandomSampler(seed=0)
            trial = Trial(study, found._trial_id)
            reporter = Reporter(study, trial, prunes=prunes, database=self._database)
        outcome = run(int(stored["number"]), json.loads(stored["parameters"]), reporter)
        with database_errors(self._database):
            trial.set_user_attr("outcome", _plain(outcome))
            self._finish(study, trial, outcome)
        self.outcomes[key] = outcome
        self._parameters[key] = json.loads(stored["parameters"])
        write_ledger(self.folder / LEDGER, self.records())
        return outcome

    def _begin(
        self, study: optuna.Study, key: str, distributions: Mapping[str, BaseDistribution], given: Parameters
    ) -> FrozenTrial:
        number = len(self.outcomes)
        sampler = make_sampler(self.seed, number)
        fixed = {name: value for name, value in given.items() if name in distributions}
        study.sampler = fixing(sampler, fixed) if fixed else sampler
        trial = study.ask(fixed_distributions=dict(distributions))
        trial.set_user_attr("parameters", json.dumps({**given, **trial.params}))
        trial.set_user_attr("number", number)
        trial.set_user_attr("key", key)  # last: a trial with a key is complete
        return self._storage.get_trial(trial._trial_id)

    def _interrupted(self, study: optuna.Study, key: str) -> FrozenTrial | None:
        """The trial `key` that a kill has left unfinished; others that never got their key are dropped."""
        found = None
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("key") == key:
                found = trial
            elif "key" not in trial.user_attrs:
                study.tell(trial.number, state=TrialState.FAIL)
        return found

    def _finish(self, study: optuna.Study, trial: Trial, outcome: Outcome) -> None:
        state = _STATES[outcome.record.status]
        study.tell(trial, outcome.record.loss if state is TrialState.COMPLETE else None, state=state)

    def _all(self) -> list[FrozenTrial]:
        """Every trial of every phase; those whose outcome was stored an instant before a kill are closed."""
        found = []
        for name in self._studies:
            study = self._study(name)
            for trial in study.get_trials(deepcopy=False):
                if trial.state is TrialState.RUNNING and "outcome" in trial.user_attrs:
                    outcome = _outcome(trial.user_attrs["outcome"])
                    self._finish(study, Trial(study, trial._trial_id), outcome)
                found.append(trial)
        return found

    def _study(self, name: str) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=0),
        )


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turns what the database at `path` cannot do into a StorageError (disk full, no permission) or StudyError."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise _database_error(error, path) from error


def _database_error(error: Exception, path: Path) -> AttentuneError:
    said = f"{error} {error.__cause__ or ''}".lower()
    for phrase, number in _SYSTEM.items():
        if phrase in said:
            return storage_error(OSError(number, os.strerror(number)), path)
    return StudyError(
        f"{path} is not the database of a study, or is damaged ({type(error).__name__}); use another folder"
    )


def _by_step(record: TrialRecord, steps: int) -> dict[int, float]:
    """The validation losses of a complete trial of `steps` steps by step, without the last, which is on more text."""
    if record.status != "complete" or not record.tokens:
        return {}
    return {round(tokens / record.tokens * steps): loss for tokens, loss in record.curve[:-1]}


def _plain(outcome: Outcome) -> str:
    record = outcome.record.model_dump(mode="json")
    return json.dumps({"record": record, "by_position": outcome.by_position, "left_out": outcome.left_out})


def _outcome(text: str) -> Outcome:
    held = json.loads(text)
    record = TrialRecord.model_validate(held["record"])
    return Outcome(record, tuple(held["by_position"]), tuple(held.get("left_out", ())))
