"""The pictures of a task's report, as PNG: learning curve, confusions, calibration, attention."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure as Picture

from attentune.evaluation.looks import Look

FONTS = (  # those with Chinese, Japanese and Korean letters, where one is installed
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
)
LONGEST_LABEL = 16  # letters


@cache
def _families() -> list[str]:
    """The usual letters first, and those of other scripts where the machine has them."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FONTS if name in known)]


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    """Letters of all scripts that the machine has fonts for; one that it lacks is a box."""
    with rc_context({"font.family": _families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


@_any_script()
def learning_curve(curve: Mapping[int, Sequence[Mapping[str, Any]]], main: str) -> bytes:
    """Validation loss, and the main figure where it was measured, over steps, a line for each seed."""
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


@_any_script()
def confusion_picture(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> bytes:
    """Of each true label (row) the share that was predicted as each label (column); counts where they can be read."""
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
    picture.colorbar(image, ax=axis, shrink=0.8, label="share of the true label")
    return _png(picture)


@_any_script()
def calibration_picture(bins: Sequence[Mapping[str, float]]) -> bytes:
    """How often the model is right over how sure it is, and below it how many answers are that sure.

    On the diagonal it is as sure as it should be; below it, it is too sure (arXiv:1706.04599).
    """
    picture = Picture(figsize=(4.6, 4.8), layout="constrained")
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    sure = [one["confidence"] for one in bins]
    above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    above.plot(sure, [one["accuracy"] for one in bins], marker="o", color="C0")
    above.set_ylim(0, 1.02)
    above.set_title("share of right answers", loc="left", fontsize=10)
    low = max(0.0, min(sure) - 0.05)
    above.set_xlim(low, 1.01)
    below.bar(sure, [one["count"] for one in bins], width=0.6 / len(bins) * (1 - low), color="C0")
    below.set_title("answers", loc="left", fontsize=10)
    below.set_xlabel("probability that the model gives its answer")
    for axis in (above, below):
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
    return _png(picture)


@_any_script()
def attention_picture(look: Look) -> bytes:
    """The weights of a `Look`, a row for each token written and a column for each that was read."""
    wrote, read = len(look.wrote), len(look.read)
    picture = Picture(figsize=(1.6 + 0.3 * read, 1.5 + 0.27 * wrote), layout="constrained")
    axis = picture.subplots()
    axis.imshow(np.sqrt(look.weights), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(read), [_label(token) for token in look.read], rotation=90, fontsize=9)
    axis.set_yticks(range(wrote), [_label(token) for token in look.wrote], fontsize=9)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(read + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(wrote + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="minor", length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    return _png(picture)


def _label(token: str) -> str:
    """A token without what matplotlib would read as a formula; long ones cut."""
    shown = token.strip().replace("$", "\\$") or "␣"
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"


def _png(picture: Picture) -> bytes:
    held = BytesIO()
    picture.savefig(held, format="png", dpi=110)
    return held.getvalue()
