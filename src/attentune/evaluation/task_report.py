"""What a trained model of a task is worth, as data, as text to read and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attentune.evaluation.looks import Look
from attentune.tasks.task import Scores

CROWDED = 100  # labels: of more, a picture of confusions shows nothing
SHOWN_MISTAKES = 10
LOOKS = (
    "Rows are what the model wrote, columns what it read; the darker, the more it looked there (by the square root of "
    "the weight): the last layer's cross-attention, the mean over its heads."
)


@dataclass(frozen=True)
class Figure:
    """A figure over seeds; the standard deviation is None for a single one."""

    mean: float
    deviation: float | None = None
    each: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.deviation is None else f"{self.mean:.4f} ± {self.deviation:.4f}"


@dataclass(frozen=True)
class TaskReport:
    """Everything that is told of a task's training.

    - `figures`: by part (`validation`, `test`) and name, of the model over its seeds.
    - `baselines`: the scores of simple answers on the records of `scored_on`.
    - `scores`: of the best seed on the records of `scored_on`, with its report and mistakes.
    - `curve`: of each seed, what was measured on the way: step, loss and the task's main figure.
    - `facts`: sizes, times, padding, duplicates, in words, by name.
    - `looks`: where the model looked, of a few examples.
    """

    task: str
    main: str
    scored_on: str
    figures: Mapping[str, Mapping[str, Figure]]
    baselines: Mapping[str, Scores]
    scores: Scores
    curve: Mapping[int, Sequence[Mapping[str, Any]]]
    facts: Mapping[str, str] = field(default_factory=dict)
    looks: Sequence[Look] = ()

    def lines(self) -> list[str]:
        """A summary for the terminal."""
        shown = [f"{name:<11} {text}" for name, text in self.facts.items()]
        for part, figures in self.figures.items():
            shown.append(f"{part:<11} {', '.join(f'{name} {figure}' for name, figure in figures.items())}")
        for name, scores in self.baselines.items():
            shown.append(f"{'beside':<11} {name}: {_values(scores)}")
        return shown

    def markdown(self, pictures: Sequence[str] = ()) -> str:
        """The report as a page; `pictures` are files beside it."""
        names = list(dict.fromkeys(name for part in self.figures.values() for name in part))
        lines = [f"# {self.task}", "", f"| | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
        for part, figures in self.figures.items():
            cells = [str(figures[name]) if name in figures else "" for name in names]
            lines.append(f"| model, {part} | {' | '.join(cells)} |")
            for number, seed in enumerate(self.curve if len(self.curve) > 1 else ()):
                each = [figures[name].each if name in figures else () for name in names]
                cells = [f"{one[number]:.4f}" if len(one) == len(self.curve) else "" for one in each]
                lines.append(f"| seed {seed}, {part} | {' | '.join(cells)} |")
        for baseline, scores in self.baselines.items():
            cells = [f"{scores.values[name]:.4f}" if name in scores.values else "" for name in names]
            lines.append(f"| {baseline}, {self.scored_on} | {' | '.join(cells)} |")
        lines += ["", *(f"- {name}: {text}" for name, text in self.facts.items())]
        lines += [f"- {name}: `{signature}`" for name, signature in self.scores.signatures.items()]
        shown = {look.file: look for look in self.looks}
        lines += [line for picture in pictures if picture not in shown for line in ("", f"![{picture}]({picture})")]
        if self.scores.text:
            lines += ["", f"## {self.scored_on.capitalize()}", "", "```", self.scores.text.rstrip(), "```"]
        if mistakes := self.scores.details.get("mistakes"):
            lines += ["", "## Mistakes worth reading", "", *_table(mistakes[:SHOWN_MISTAKES])]
        if self.looks:
            lines += ["", "## Where it looked", "", LOOKS]
        for name in pictures:
            if name in shown:
                lines += ["", *shown[name].lines(), "", f"![{name}]({name})"]
        return "\n".join(lines) + "\n"

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "task": self.task,
            "main": self.main,
            "scored_on": self.scored_on,
            **{
                part: {
                    name: {"mean": one.mean, "deviation": one.deviation, "each": list(one.each)}
                    for name, one in figures.items()
                }
                for part, figures in self.figures.items()
            },
            "baselines": {name: dict(scores.values) for name, scores in self.baselines.items()},
            "signatures": dict(self.scores.signatures),
            "report": self.scores.text,
            **self.scores.details,
            "curve": {str(seed): [dict(one) for one in points] for seed, points in self.curve.items()},
        }

    def pictures(self) -> dict[str, bytes]:
        """PNG files by name: the learning curve; of labels the confusions and the calibration; where it looked."""
        from attentune.evaluation import task_pictures as draw  # matplotlib takes a while to come

        found = {"curve.png": draw.learning_curve(self.curve, self.main)} if self.curve else {}
        confusion, labels = self.scores.details.get("confusion"), self.scores.details.get("labels")
        if confusion is not None and labels is not None and len(labels) <= CROWDED:
            found["confusion.png"] = draw.confusion_picture(confusion, labels)
        if bins := self.scores.details.get("calibration"):
            found["calibration.png"] = draw.calibration_picture(bins)
        return found | {look.file: draw.attention_picture(look) for look in self.looks}


def _values(scores: Scores) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.values.items())


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0])

    def cell(value: Any) -> str:
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")

    body = [f"| {' | '.join(cell(row.get(name, '')) for name in names)} |" for row in rows]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *body]
