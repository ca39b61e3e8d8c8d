"""A study as the terminal shows it while it runs, and what it found as text at the end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from attentune.cli.console import PLAIN_INTERVAL, known_prompt
from attentune.search.result import (
    STAGES,
    ArmResult,
    Measure,
    Scalar,
    Stage,
    StageResult,
    StudyResult,
    TrialRecord,
    tried,
)
from attentune.search.wording import duration_text, verdict_sentences


@final
class StudyView:
    """Shows a study on stderr: stages as they begin and end, the trial at hand, the best so far, the time left.

    On a terminal two bars, one of the study and one of the trial; else a line for every stage, and now and then one
    for a trial. It is a `StudyProgress`, to be used as a context manager.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._study = self._trial = TaskID(0)
        self._last_line = time.monotonic()
        self._measure = Measure()
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._study = self._bars.add_task("study", total=None, note="preparing data")
            self._trial = self._bars.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def text_prepared(self, what: str, done: int, total: int) -> None:
        self._update(self._trial, description=what, completed=done, total=total or None, note="", visible=done < total)

    def measured_by(self, measure: Measure) -> None:
        self._measure = measure

    def noticed(self, what: str) -> None:
        self._line(f"note: {what}")

    def stage_started(self, stage: Stage, plan: str) -> None:
        self._line(f"[{STAGES.index(stage) + 1}/{len(STAGES)}] {stage}: {plan}")

    def trial_started(self, number: int, arm: str, settings: Mapping[str, Scalar], *, done: int, planned: int) -> None:
        self._update(self._study, description="study", completed=done, total=max(planned, done + 1))
        what = f"trial {number} {arm}  {settings.get('attention', '')}"
        self._update(self._trial, description=escape(what[:60]), completed=0, total=None, note="", visible=True)

    def trained(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        note = f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s"
        self._update(self._trial, completed=step, total=steps, note=note)

    def trial_ended(self, record: TrialRecord, *, best: TrialRecord | None, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"about {duration_text(seconds_left)} left"
        lowest = "" if best is None else f"best {self._measure.text(best.loss)}"
        self._update(self._study, advance=1, note=", ".join(filter(None, (lowest, left))))
        self._update(self._trial, visible=False)
        now = time.monotonic()
        if self._bars is not None or now - self._last_line >= PLAIN_INTERVAL or record.status == "failed":
            outcome = (
                self._measure.text(record.loss) if record.status == "complete" else f"{record.status}: {record.reason}"
            )
            notes = "" if self._bars is not None else f"  ({', '.join(filter(None, (lowest, left)))})"
            self._line(f"    {record.number:>3}  {outcome}  {record.arm}  {record.attention}{notes}")

    def stage_ended(self, result: StageResult) -> None:
        decided = f"Decided: {result.decision}" if result.decision else ""
        self._line("    " + " ".join(filter(None, (result.summary, decided))))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._bars is not None:
            self._bars.console.print(escape(text), highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _update(self, task: TaskID, **changes: Any) -> None:
        if self._bars is not None:
            self._bars.update(task, **changes)


def study_text(result: StudyResult, out: Path) -> str:
    """What the study found, where report and model are, a sample, and the command for more."""
    tuning, attention = verdict_sentences(result)
    measure = result.objective.measure
    unit = " nats/token" if result.task == "lm" else f" {measure.name}"
    lines = [
        "",
        tuning,
        attention,
        "",
        f"baseline  {measure.text(result.baseline.loss)}{unit}{_test(result.baseline, measure)}",
        f"tuned     {measure.text(result.tuned.loss)}{unit}{_test(result.tuned, measure)}",
        f"candidate {_candidate(result, unit)}",
        *_deployed(result),
        f"time      {duration_text(result.seconds)}, {result.tokens_used:,} tokens, {len(result.trials)} trials",
    ]
    model = out / "best"
    if result.deployment is not None:
        model = Path(result.deployment.model)
        check = "the same logits" if result.deployment.passed else "OTHER LOGITS"
        difference = f"largest difference {result.deployment.max_logit_difference:.2g}"
        lines.append(f"check     reloaded in a fresh process: {check} ({difference})")
    lines += [f"report    {out / 'report.html'}", f"model     {model}"]
    if result.task != "lm":
        lines += [
            f"mistakes  {out / 'task' / 'report.md'}",
            f"predict   {shlex.join(['attentune', 'predict', str(model)])} --input FILE --output FILE",
        ]
    elif result.sample is not None:  # there is none where the attention cannot decode
        more = shlex.join(["attentune", "generate", str(model), *known_prompt(result.sample.prompt), "--tokens", "400"])
        lines += ["", "sample:", result.sample.prompt + result.sample.text, "", f"more:     {more}"]
    return "\n".join(lines)


def _deployed(result: StudyResult) -> list[str]:
    """Which model is shipped, and why."""
    return [f"deployed  {stage.decision}" for stage in result.stages if stage.name == "evaluation" and stage.decision]


def _candidate(result: StudyResult, unit: str) -> str:
    """The best candidate's figure and attention, or why there is none."""
    if not result.has_candidate:
        return "none could be trained" if tried(result.trials) else "none was tried: the budget was too small"
    measure, arm = result.objective.measure, result.winner
    return f"{measure.text(arm.loss)}{unit}{_test(arm, measure)}  {arm.attention}"


def _test(arm: ArmResult, measure: Measure) -> str:
    """The figure on the test records, where there are any."""
    numbers = arm.figures.get(f"test {measure.name}", ())
    return f" (test {sum(numbers) / len(numbers):.4f})" if numbers else ""
