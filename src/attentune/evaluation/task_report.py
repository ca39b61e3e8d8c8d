"""What a trained model of a task is worth, as data, as text to read and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from attentune.tasks.task import Scores

CROWDED = 100  # labels: of more, a picture of confusions shows nothing
SHOWN_MISTAKES = 10


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
    """

    task: str
    main: str
    scored_on: str
    figures: Mapping[str, Mapping[str, Figure]]
    baselines: Mapping[str, Scores]
    scores: Scores
    curve: Mapping[int, Sequence[Mapping[str, Any]]]
    facts: Mapping[str, str] = field(default_factory=dict)

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
        for baseline, scores in self.baselines.items():
            cells = [f"{scores.values[name]:.4f}" if name in scores.values else "" for name in names]
            lines.append(f"| {baseline}, {self.scored_on} | {' | '.join(cells)} |")
        lines += ["", *(f"- {name}: {text}" for name, text in self.facts.items())]
        lines += [f"- {name}: `{signature}`" for name, signature in self.scores.signatures.items()]
        lines += [line for picture in pictures for line in ("", f"![{picture}]({picture})")]
        if self.scores.text:
            lines += ["", f"## {self.scored_on.capitalize()}", "", "```", self.scores.text.rstrip(), "```"]
        if mistakes := self.scores.details.get("mistakes"):
            lines += ["", "## Mistakes worth reading", "", *_table(mistakes[:SHOWN_MISTAKES])]
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
        """PNG files by name: the learning curve, and of labels the confusions."""
        found = {"curve.png": learning_curve(self.curve, self.main)} if self.curve else {}
        confusion, labels = self.scores.details.get("confusion"), self.scores.details.get("labels")
        if confusion is not None and labels is not None and len(labels) <= CROWDED:
            found["confusion.png"] = confusion_picture(confusion, labels)
        return found


def _values(scores: Scores) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.values.items())


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0])

    def cell(value: Any) -> str:
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")

    body = [f"| {' | '.join(cell(row.get(name, '')) for name in names)} |" for row in rows]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *body]


def learning_curve(curve: Mapping[int, Sequence[Mapping[str, Any]]], main: str) -> bytes:
    """Validation loss, and the main figure where it was measured, over steps, a line for each seed."""
    from matplotlib.figure import Figure as Picture

    scored = any(main in one.get("scores", {}) for points in curve.values() for one in points)
    picture = Picture(figsize=(9 if scored else 5, 3.4), layout="constrained")
    axes = picture.subplots(1, 2 if scored else 1, squeeze=False)[0]
    for seed, points in curve.items():
        steps = [one["step"] for one in points]
        axes[0].plot(steps, [one["loss"] for one in points], marker=".", label=f"seed {seed}")
        if scored:
            axes[1].plot(steps, [one["scores"].get(main) for one in points], marker=".")
    for axis, name in zip(axes, ("validation loss, nats", f"validation {main}"), strict=False):
        axis.set_xlabel("steps")
        axis.set_title(name, loc="left", fontsize=10)
        axis.grid(color="0.9")
    if len(curve) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    return _png(picture)


def confusion_picture(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> bytes:
    """Of each true label (row) the share that was predicted as each label (column); counts where they can be read."""
    import numpy as np
    from matplotlib.figure import Figure as Picture

    counts = np.array(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(3.0 + 0.28 * len(labels), 16.0)
    picture = Picture(figsize=(size + 1, size), layout="constrained")
    axis = picture.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 9 if len(labels) <= 20 else 5
    places = range(len(labels))
    axis.set_xticks(places, labels, rotation=90, fontsize=small)
    axis.set_yticks(places, labels, fontsize=small)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if len(labels) <= 20:
        for row in places:
            for column in places:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    picture.colorbar(image, ax=axis, shrink=0.8)
    return _png(picture)


def _png(picture: Any) -> bytes:
    held = BytesIO()
    picture.savefig(held, format="png", dpi=110)
    return held.getvalue()
