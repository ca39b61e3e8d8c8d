"""What a study tells while it runs; the command line draws it, and Python callers may leave it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from attentune.search.result import Measure, Scalar, Stage, StageResult, TrialRecord


@runtime_checkable
class StudyProgress(Protocol):
    """Told everything in order; a study that goes on tells again what it finds already done, with `seconds_left`."""

    def text_prepared(self, what: str, done: int, total: int) -> None:
        """The data are being read: `reading`, `tokenizer` or `encoding`, `done` of `total`."""

    def measured_by(self, measure: Measure) -> None:
        """What is judged by, before the first stage."""

    def noticed(self, what: str) -> None:
        """Something that whoever started the study should know, in a sentence: that its budget is too small."""

    def stage_started(self, stage: Stage, plan: str) -> None:
        """A stage begins; `plan` says in a sentence what it will do."""

    def trial_started(self, number: int, arm: str, settings: Mapping[str, Scalar], *, done: int, planned: int) -> None:
        """Trial `number` begins; `done` of about `planned` trials of the whole study are over."""

    def trained(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """`step` of `steps` of the trial are done; `loss` is the recent training loss in nats per token."""

    def trial_ended(self, record: TrialRecord, *, best: TrialRecord | None, seconds_left: float | None) -> None:
        """A trial is over; `best` has the lowest loss of its stage, `seconds_left` is an estimate for the study."""

    def stage_ended(self, result: StageResult) -> None:
        """A stage is over: what it found, and what it carries on."""


class Quiet:
    """Says nothing."""

    def text_prepared(self, what: str, done: int, total: int) -> None: ...

    def measured_by(self, measure: Measure) -> None: ...

    def noticed(self, what: str) -> None: ...

    def stage_started(self, stage: Stage, plan: str) -> None: ...

    def trial_started(
        self, number: int, arm: str, settings: Mapping[str, Scalar], *, done: int, planned: int
    ) -> None: ...

    def trained(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None: ...

    def trial_ended(self, record: TrialRecord, *, best: TrialRecord | None, seconds_left: float | None) -> None: ...

    def stage_ended(self, result: StageResult) -> None: ...
