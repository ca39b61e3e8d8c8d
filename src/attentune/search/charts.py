"""The report's charts as inline SVG: learning curves, quality against cost, and gains with their whiskers.

Colours come from classes that the report's style sheet sets for light and dark screens; lines differ in dashes and
marks in shape as well, so that nothing depends on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from attentune.search.analysis import pareto_indices
from attentune.search.result import Curve, Difference, Measure
from attentune.search.wording import gain_text, short_count

WIDTH, HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 52
LOSS = Measure()
_ROW = 38  # height of one line of the gains chart


@dataclass(frozen=True)
class Axis:
    """From numbers to SVG units, linear or logarithmic, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> tuple[float, ...]:
        """About `count` round numbers between the ends."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            inside = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
            if len(inside) >= 2:
                return tuple(inside[:: math.ceil(len(inside) / (count + 1))])
        step = round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(number * step for number in range(first, last + 1))


def round_step(rough: float) -> float:
    """Of 1, 2, 2.5, 5, 10 times a power of ten the one nearest to `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(math.log(step / rough)))


def axis(values: Sequence[float], start: float, end: float, *, pad: float = 0.06, may_be_log: bool = False) -> Axis:
    """An axis with room for all `values`; logarithmic where allowed and they span more than a factor of 8."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and high / low > 8:
        room = (high / low) ** pad
        return Axis(low / room, high * room, start, end, logarithmic=True)
    room = (high - low) * pad or abs(high) * 0.05 or 1.0
    return Axis(low - room, high + room, start, end)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str, x_text: Callable[[float], str]) -> Markup:
    parts = []
    step = y.ticks()[1] - y.ticks()[0] if len(y.ticks()) > 1 else 0.1
    digits = max(0, min(4, -math.floor(math.log10(step) - 1e-9) + (f"{step:e}"[:3] == "2.5")))
    for value in y.ticks():
        height = y.at(value)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.start, x.end, height, height)
        )
        parts.append(
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
                x.start - 8, height + 4, f"{value:.{digits}f}"
            )
        )
    for value, text in tick_texts(x.ticks(4), x_text):
        across = x.at(value)
        parts.append(
            Markup('<line class="grid faint" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(across, across, y.start, y.end)
        )
        parts.append(Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(across, y.start + 18, text))
    parts.append(Markup('<text class="axis end" x="{}" y="{}">{}</text>').format(x.end, y.start + 40, x_label))
    parts.append(
        Markup('<text class="axis middle upright" transform="translate(14 {}) rotate(-90)">{}</text>').format(
            (y.start + y.end) / 2, y_label
        )
    )
    return Markup("").join(parts)


def tick_texts(ticks: Sequence[float], text: Callable[[float], str]) -> list[tuple[float, str]]:
    """The ticks with their texts; written out in full where the short form would not tell them apart."""
    texts = [text(value) for value in ticks]
    if len(set(texts)) < len(texts):
        texts = [f"{value:,.6g}" if abs(value) < 1 else f"{value:,.0f}" for value in ticks]
    return list(zip(ticks, texts, strict=True))


def _svg(content: Markup, label: str, height: float = HEIGHT) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, content
    )


@dataclass(frozen=True)
class CurveSeries:
    """The learning curves of one finalist, one for each seed."""

    name: str  # also the class: "baseline", "tuned" or "winner"
    label: str
    curves: tuple[Curve, ...]

    def mean(self) -> Curve:
        """Mean loss at every token count that all the seeds reached."""
        heights = [dict(curve) for curve in self.curves]
        shared = sorted(set(heights[0]).intersection(*heights[1:])) if heights else []
        return tuple((tokens, sum(height[tokens] for height in heights) / len(heights)) for tokens in shared)


def learning_curves(
    series: Sequence[CurveSeries], *, from_share: float = 0.0, measure: Measure = LOSS
) -> Markup | None:
    """What was measured over training tokens, seeds thin and their mean thick; None where no curve has two points.

    `from_share` leaves out what lies before that share of the training. From the start, the picture is cut beyond
    the values of the first fifth, so that the end can be read.
    """
    last = max((tokens for one in series for curve in one.curves for tokens, _ in curve), default=0)
    start = from_share * last
    kept = [
        CurveSeries(one.name, one.label, tuple(tuple(p for p in curve if p[0] >= start) for curve in one.curves))
        for one in series
    ]
    drawn = [one for one in kept if one.curves and all(len(curve) > 1 for curve in one.curves)]
    points = [point for one in drawn for curve in one.curves for point in curve]
    last = max((tokens for tokens, _ in points), default=0)
    if last <= start:
        return None
    sign = -1 if measure.rises else 1  # kept are values of which less is better
    low = min(loss for _, loss in points)
    late = [loss for tokens, loss in points if tokens >= 0.2 * last]
    top = min(max(loss for _, loss in points), max(late) + 0.25 * (max(late) - low))
    x = Axis(start, last + 0.02 * (last - start), _LEFT, WIDTH - _RIGHT)
    y = axis(sorted((sign * low, sign * top)), HEIGHT - _BOTTOM, _TOP)
    clip = f"tokens-from-{round(start)}"  # two of these charts may stand in one document
    window = (_LEFT, _TOP, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
    clip_path = Markup('<clipPath id="{}"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>')
    lines = [clip_path.format(clip, *window)]
    path = Markup('<polyline class="{} {}" points="{}" clip-path="url(#{})"><title>{}</title></polyline>')
    for thickness in ("seed", "mean"):
        for one in drawn:
            mean = one.mean()
            for curve in one.curves if thickness == "seed" else (mean,) if len(mean) > 1 else ():
                places = " ".join(f"{x.at(tokens)},{y.at(sign * loss)}" for tokens, loss in curve)
                hint = f"{one.label}: {sign * curve[-1][1]:.4f} at the end"
                lines.append(path.format(thickness, one.name, places, clip, hint))
    ends = ", ".join(f"{one.label} ends at {sign * one.mean()[-1][1]:.4f}" for one in drawn if one.mean())
    frame = _frame(x, y, "training tokens", measure.on_the_way, short_count)
    return _svg(frame + Markup("").join(lines), f"Learning curves. {ends}")


@dataclass(frozen=True)
class CostPoint:
    """A trial or a finalist in the picture of quality against cost."""

    cost: float
    loss: float
    kind: str  # the class: "trial", "ablation", "baseline", "tuned" or "winner"
    label: str


def quality_against_cost(
    points: Sequence[CostPoint], name: str, x_text: Callable[[float], str], measure: Measure = LOSS
) -> Markup | None:
    """Loss, or score, over one cost with the Pareto front as a staircase; None for fewer than two points.

    Trials far worse than the rest are set on the edge; their tooltips hold the true number.
    """
    if len(points) < 2:
        return None
    losses = sorted(point.loss for point in points)
    named = [point.loss for point in points if point.kind != "trial"]
    cut = max([losses[int(0.9 * (len(losses) - 1))], *named])
    x = axis([point.cost for point in points], _LEFT, WIDTH - _RIGHT, may_be_log=True)
    y = axis(sorted((measure.shown(losses[0]), measure.shown(cut))), HEIGHT - _BOTTOM, _TOP)
    worst, edge = (-y.low, HEIGHT - _BOTTOM) if measure.higher_is_better else (y.high, _TOP)

    def height(loss: float) -> float:
        return y.at(measure.shown(min(loss, worst)))

    front = [points[index] for index in pareto_indices([p.cost for p in points], [p.loss for p in points])]
    what = f"validation {measure.name}"
    parts = [_frame(x, y, name, ", ".join(filter(None, (what, measure.unit))), x_text)]
    path = [f"M{x.at(front[0].cost)},{edge} V{height(front[0].loss)}"]
    path += [f"H{x.at(point.cost)} V{height(point.loss)}" for point in front[1:]]
    parts.append(Markup('<path class="front" d="{} H{}"/>').format(" ".join(path), WIDTH - _RIGHT))
    order = ("trial", "ablation", "tuned", "baseline", "winner")  # open marks last: what is below shows through
    for point in sorted(points, key=lambda point: order.index(point.kind)):
        beyond = f" ({'below' if measure.higher_is_better else 'above'} the picture)" if point.loss > worst else ""
        best = ", on the front" if point in front else ""
        hint = f"{point.label}: {measure.text(point.loss)}{beyond} at {x_text(point.cost)}{best}"
        place = (x.at(point.cost), height(point.loss))
        parts.append(mark(point.kind, *place, hint=hint, classes="on-front" if point in front else ""))
    label = f"{what.capitalize()} against {name}, {len(points)} points, {len(front)} of them on the Pareto front"
    return _svg(Markup("").join(parts), label)


def mark(kind: str, x: float, y: float, *, hint: str = "", classes: str = "") -> Markup:
    """The mark of a kind of point: open square baseline, triangle tuned, ring winner, diamond ablation, dot trial.

    One fits into the other, so that all can be seen where they fall on one place.
    """
    shapes = {
        "baseline": "M-6,-6h12v12h-12z",
        "tuned": "M0,-4.8l4.6,8.2h-9.2z",
        "winner": "M-10,0a10,10 0 1,0 20,0a10,10 0 1,0 -20,0z",
        "ablation": "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
        "trial": "M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0z",
    }
    return Markup('<path class="mark {} {}" transform="translate({} {})" d="{}"><title>{}</title></path>').format(
        kind, classes, x, y, shapes[kind], hint
    )


def gains(rows: Sequence[tuple[str, Difference]], measure: Measure = LOSS) -> Markup | None:
    """A dot for each gain with its noise band as whiskers, the seeds as small dots; None without rows."""
    if not rows:
        return None
    left, right = 118, WIDTH - 26
    ends = [0.0]
    for _, found in rows:
        band = found.band if found.enough_seeds and found.band is not None else 0.0
        ends += [found.gain - band, found.gain + band, *found.gains]
    x = axis(ends, left, right)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    bottom = height - _BOTTOM
    parts = []
    for value in x.ticks(4):
        across = x.at(value)
        parts.append(
            Markup('<line class="grid faint" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(across, across, _TOP, bottom)
        )
        shown = "0" if abs(value) < 1e-12 else f"{value:+.3g}".replace("-", "−")
        parts.append(Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(across, bottom + 18, shown))
    parts.append(
        Markup('<line class="zero" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x.at(0), x.at(0), _TOP - 6, bottom)
    )
    parts.append(
        Markup('<text class="axis end" x="{}" y="{}">gain, {} →</text>').format(
            right, bottom + 40, measure.unit or measure.name
        )
    )
    for index, (label, found) in enumerate(rows):
        middle = _TOP + _ROW * (index + 0.5)
        parts.append(Markup('<text class="row-label end" x="{}" y="{}">{}</text>').format(left - 12, middle + 5, label))
        row = [Markup("<title>{}: {}, {}</title>").format(label, gain_text(found), found.verdict)]
        if found.band is not None and found.enough_seeds:
            low, high = x.at(found.gain - found.band), x.at(found.gain + found.band)
            whisker = f"M{low},{middle - 8}v16 M{low},{middle}H{high} M{high},{middle - 8}v16"
            row.append(Markup('<path class="whisker" d="{}"/>').format(whisker))
        row += [
            Markup('<circle class="seed" cx="{}" cy="{}" r="2.4"/>').format(x.at(gain), middle + 11)
            for gain in found.gains
        ]
        row.append(Markup('<circle class="gain" cx="{}" cy="{}" r="4.8"/>').format(x.at(found.gain), middle))
        parts.append(Markup('<g class="{}">{}</g>').format(found.verdict, Markup("").join(row)))
    told = "; ".join(f"{label} {gain_text(found)}, {found.verdict}" for label, found in rows)
    return _svg(Markup("").join(parts), f"Gains with their noise bands: {told}", height)
