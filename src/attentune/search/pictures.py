"""Attention as pictures: the weights of every layer and head over one sentence, small enough for one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from attentune.errors import SpecError

Weights = npt.NDArray[np.floating]

_CELL = 12  # SVG units that a weight's square takes
_LETTER = 6.4  # SVG units that a letter of a label takes
_EDGE = 6  # SVG units around the squares, right and below
_LONGEST_LABEL = 12  # letters
_RAMP = ((0.0, (226, 238, 250)), (0.35, (118, 176, 222)), (0.7, (28, 100, 170)), (1.0, (8, 34, 84)))


@dataclass(frozen=True, eq=False)
class AttentionPicture:
    """The attention of one model over one sentence.

    Shapes: `tokens` Q strings; `layers` one array [H, Q, K] each, K >= Q; the first K - Q keys are of a memory.
    Errors: SpecError where they do not fit each other.
    """

    tokens: tuple[str, ...]
    layers: tuple[Weights, ...]

    def __post_init__(self) -> None:
        if not self.tokens or not self.layers:
            raise SpecError("an attention picture needs at least one token and one layer")
        for number, weights in enumerate(self.layers):
            if weights.ndim != 3 or weights.shape[1] != len(self.tokens) or weights.shape[2] < len(self.tokens):
                raise SpecError(
                    f"layer {number} of an attention picture needs weights [heads, {len(self.tokens)} tokens, keys], "
                    f"got the shape {tuple(weights.shape)}"
                )
            if not bool(np.isfinite(weights).all()):
                raise SpecError(f"layer {number} of an attention picture holds weights that are not finite")


@dataclass(frozen=True, eq=False)
class ReportPictures:
    """Baseline and winner over the same sentence; either may be absent where a mixer has no weights to show."""

    baseline: AttentionPicture | None = None
    winner: AttentionPicture | None = None


@dataclass(frozen=True)
class HeadView:
    """One head, ready for the report."""

    name: str
    image: str  # data URI
    reach: str
    alternative: str


@dataclass(frozen=True)
class LayerView:
    """One layer, ready for the report: the mean over its heads with labelled axes, and each head."""

    number: int
    mean: Markup  # inline SVG
    reach: str
    heads: tuple[HeadView, ...]


def layer_views(picture: AttentionPicture, name: str) -> tuple[LayerView, ...]:
    """Every layer of `picture`; `name` says whose it is, in the alternative texts."""
    views = []
    for number, weights in enumerate(picture.layers, start=1):
        heads = tuple(
            HeadView(
                name=f"head {index}",
                image=image_uri(head),
                reach=reach_text(head),
                alternative=f"Attention of {name}, layer {number}, head {index}: {reach_text(head)}",
            )
            for index, head in enumerate(weights, start=1)
        )
        mean = weights.mean(axis=0)
        views.append(
            LayerView(
                number=number,
                mean=_labelled(
                    mean, picture.tokens, f"Attention of {name}, layer {number}, mean of {len(heads)} heads"
                ),
                reach=reach_text(mean),
                heads=heads,
            )
        )
    return tuple(views)


def reach_text(weights: Weights) -> str:
    """How far a head looks and over how many keys it spreads, averaged over the queries.

    The distance is in tokens, weighted; the number of keys is the exponential of the entropy. Shape: [Q, K].
    """
    queries, keys = weights.shape
    total = weights.sum(axis=-1, keepdims=True)
    sees = total[:, 0] > 0
    if not bool(sees.any()):
        return "looks at nothing"
    shares = (weights / np.where(total > 0, total, 1))[sees]
    distance = abs(np.arange(queries)[:, None] + (keys - queries) - np.arange(keys)[None, :])[sees]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)
    reach, spread = float((shares * distance).sum(axis=-1).mean()), float(np.exp(entropy).mean())
    return f"looks {reach:.1f} tokens away, at {spread:.1f} keys"


def image_uri(weights: Weights) -> str:
    """A PNG data URI with one pixel for each weight. Shape: [Q, K].

    A weight of zero is transparent; the colour follows the square root of the weight, the same for every picture.
    """
    levels = np.rint(np.sqrt(np.clip(weights, 0, 1)) * 255).astype(np.uint8)
    image = Image.fromarray(_colours()[levels])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@cache
def _colours() -> npt.NDArray[np.uint8]:
    positions = [position for position, _ in _RAMP]
    shares = np.linspace(0, 1, 256)
    channels = [np.interp(shares, positions, [colour[index] for _, colour in _RAMP]) for index in range(3)]
    alpha = np.where(np.arange(256) > 0, 255, 0)
    return np.stack([*channels, alpha], axis=-1).astype(np.uint8)


def _labelled(weights: Weights, tokens: Sequence[str], title: str) -> Markup:
    """The weights as an SVG with the tokens along both axes. Shape: [Q, K]."""
    queries, keys = weights.shape
    labels = [visible(token) for token in tokens]
    margin = 13 + _LETTER * max(map(len, labels))
    width, height = margin + keys * _CELL + _EDGE, margin + queries * _CELL + _EDGE
    upright = max(map(len, labels)) == 1  # single characters read best as they stand; longer labels are turned
    parts = [
        Markup('<image href="{}" x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none"/>').format(
            image_uri(weights), round(margin, 1), round(margin, 1), keys * _CELL, queries * _CELL
        )
    ]
    text = Markup('<text x="{}" y="{}"{}>{}</text>')
    for index, label in enumerate(labels):
        along = round(margin + (index + 0.5) * _CELL, 1)
        parts.append(text.format(round(margin - 4, 1), along, Markup(' class="row"'), label))
        column = round(margin + (index + keys - queries + 0.5) * _CELL, 1)
        turn = Markup(' class="{}"{}').format(
            "above" if upright else "column",
            "" if upright else Markup(' transform="rotate(-90 {} {})"').format(column, round(margin - 4, 1)),
        )
        parts.append(text.format(column, round(margin - 4, 1), turn, label))
    return Markup('<svg class="map" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        round(width, 1), round(height, 1), title, Markup("").join(parts)
    )


def visible(token: str) -> str:
    """A token as a label: spaces and line ends made visible, long ones cut."""
    shown = token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    shown = "".join(letter if letter.isprintable() else "�" for letter in shown) or "∅"
    return shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "…"
