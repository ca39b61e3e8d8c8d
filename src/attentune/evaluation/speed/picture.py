"""The results as a picture: in each cell every contestant's time, as a multiple of the time of what `auto` picks."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from attentune.evaluation.speed.grid import PASSES
from attentune.evaluation.speed.results import CellResult, Results

OURS = "#1f4e79"
COLOURS = ("#e07b00", "#7a5195", "#2e8b57", "#b5406b", "#8c6d31", "#3a9bb0", "#666666", "#c9a400")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
ROW = 0.3  # inches of a cell
WIDTH, MARGIN = 9.0, 1.9  # inches


def as_png(results: Results) -> bytes | None:
    """One row a cell, the fastest on the left; None where no pick has a figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rows = [one for pass_ in PASSES for one in results.cells if one.cell.pass_ == pass_ and one.picked is not None]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, MARGIN + ROW * len(rows)), layout="constrained")
    axis = figure.subplots()
    _paint(rows, axis)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("time of a call, as a multiple of what auto picks (left of the line is faster)")
    axis.set_yticks(range(len(rows)), [_label(one) for one in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", which="major", color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    setting = results.setting
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    title = f"Attention on {results.machine.device or results.machine.processor}, {threads}"
    axis.set_title(title, loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _paint(rows: list[CellResult], axis: Any) -> None:
    names = dict.fromkeys(entry.name for one in rows for entry in one.entries if entry.measured)
    own = [name for name in names if name.startswith("attentune ")]
    for name in names:
        kind = own if name in own else [other for other in names if other not in own]
        number = kind.index(name)
        times, places = [], []
        for place, one in enumerate(rows):
            entry, pick = one.of(name), one.picked
            if entry is not None and pick is not None:
                times.append(entry.median / pick.median)
                places.append(place)
        axis.scatter(
            times,
            places,
            s=46 if name in own else 30,
            marker=MARKERS[number % len(MARKERS)],
            color=OURS if name in own else COLOURS[number % len(COLOURS)],
            facecolors=None if number == 0 or name not in own else "white",
            linewidths=1.2,
            zorder=4 if name in own else 3,
            label=name,
        )
    axis.axvline(1.0, color=OURS, linewidth=1.0, zorder=2)


def _label(one: CellResult) -> str:
    cell, pick = one.cell, one.picked
    assert pick is not None
    scores = "" if cell.scores == "none" else f" {cell.scores}"
    dtype = "" if cell.dtype == "float32" else f" {cell.dtype}"
    return f"{cell.mask}{scores} {cell.length:,}{dtype}, {cell.pass_}  {_time(pick.median)}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.2g} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.0f} µs"
    )
