"""`report.html`: one file that tells what a study found; it needs no network, and reads well at night or on a phone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attentune.models.storage import atomic_write
from attentune.search import charts, wording
from attentune.search.analysis import MORE_IS_BETTER, cost_of, noise_band
from attentune.search.pictures import LayerView, ReportPictures, layer_views
from attentune.search.result import (
    STAGES,
    ArmResult,
    Cost,
    Difference,
    Measure,
    Scalar,
    StageResult,
    StudyResult,
    TrialRecord,
)

COSTS: tuple[Cost, ...] = ("parameters", "latency_ms", "seconds", "peak_bytes")


def write_report(result: StudyResult, pictures: ReportPictures, path: Path) -> None:
    """Write the report of `result` to `path`, replacing an older one at once.

    Errors: StorageError where the file cannot be written.
    """
    atomic_write(path, report_html(result, pictures))


def report_html(result: StudyResult, pictures: ReportPictures) -> str:
    """The report as one HTML document without references to anything outside itself."""
    environment = Environment(
        loader=PackageLoader("attentune.search", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shell"] = shlex.quote
    series, measure = curve_series(result), result.objective.measure
    names, (drawn, equal) = wording.arm_names(result), _cost_charts(result)
    return environment.get_template("report.html.j2").render(
        result=result,
        words=wording,
        measure=measure,
        pair="fold" if result.folds else "seed",
        is_text=result.task == "lm",
        verdict=wording.verdict_sentences(result),
        tiles=_tiles(result),
        stages=stage_views(result),
        curves=charts.learning_curves(series, measure=measure),
        late_curves=charts.learning_curves(series, from_share=0.5, measure=measure),
        series=series,
        mark=charts.mark,
        costs=drawn,
        equal_costs=equal,
        gains=charts.gains(
            [
                ("tuning", result.tuning),
                *([("attention", result.attention)] if result.has_candidate else []),
                *((one.what, one) for one in result.slots),
            ],
            measure,
        ),
        layers=_layer_pairs(pictures, names),
        tokens=next((one.tokens for one in (pictures.winner, pictures.baseline) if one is not None), ()),
        names=names,
        arms=[
            (
                names.get(arm.name, arm.name),
                arm,
                noise_band(arm.losses, folds=result.folds),
                _settings(arm, result.baseline),
            )
            for arm in finalists(result)
        ],
        trials=_trial_table(result.trials),
        bound_value=_bound_values(result),
        figures=_figures(result),
    )


def finalists(result: StudyResult) -> tuple[ArmResult, ...]:
    """Baseline, tuned baseline, the best candidate where there was one, and that without each slot."""
    candidate = (result.winner,) if result.has_candidate else ()
    return (result.baseline, result.tuned, *candidate, *result.ablations)


def _settings(arm: ArmResult, baseline: ArmResult) -> str:
    """The baseline's settings, and of any other finalist those in which it differs from it."""
    if arm.name == baseline.name:
        return wording.settings_text(arm.settings)
    changed = {name: value for name, value in arm.settings.items() if baseline.settings.get(name) != value}
    return wording.settings_text(changed) or "settings as the untuned baseline's"


def _figures(result: StudyResult) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """Of a task the names of all figures, and of each finalist what they are: the mean ± half of its interval."""
    arms = finalists(result)
    names = tuple(dict.fromkeys(name for arm in arms for name in arm.figures))
    called = wording.arm_names(result)

    def cell(numbers: Sequence[float]) -> str:
        if not numbers:
            return wording.NONE
        band = noise_band(numbers, folds=result.folds)
        return f"{sum(numbers) / len(numbers):.4f}" + ("" if band is None else f" ± {band:.4f}")

    rows = ((called.get(arm.name, arm.name), tuple(cell(arm.figures.get(name, ())) for name in names)) for arm in arms)
    return names, tuple(rows)


@dataclass(frozen=True)
class Tile:
    """A number that a reader looks for first."""

    name: str
    number: str
    note: str
    verdict: str = ""  # colours the number: "gain", "loss" or "noise"


def _tiles(result: StudyResult) -> tuple[Tile, ...]:
    winner, measure = result.winner, result.objective.measure
    bits = [
        f"{sum(numbers) / len(numbers):.4f} bits per {unit}"
        for unit, numbers in (("character", winner.bits_per_character), ("byte", winner.bits_per_byte))
        if numbers
    ]
    counted = [trial.status for trial in result.trials]
    statuses = ", ".join(f"{counted.count(name)} {name}" for name in ("pruned", "failed", "refused") if name in counted)
    tiles = [
        Tile(
            f"{wording.arm_names(result)['winner'] if result.has_candidate else 'tuned baseline'}'s "
            f"{measure.name}{', ' * bool(measure.unit)}{measure.unit}",
            measure.text(winner.loss),
            bits[0] if bits else f"validation {'text' if result.task == 'lm' else 'records'}",
        ),
        Tile(
            "tuning gained",
            wording.signed(result.tuning.gain),
            _band_note(result.tuning, measure),
            result.tuning.verdict,
        ),
        *_attention_tile(result),
        Tile("trials", wording.count_text(len(result.trials)), statuses or "all complete"),
        Tile("time", wording.duration_text(result.seconds), f"budget {result.budget}"),
        Tile("tokens trained", wording.short_count(result.tokens_used), "by all trials together"),
    ]
    if winner.parameters is not None:
        against = f"tuned baseline {wording.short_count(result.tuned.parameters)}" if result.tuned.parameters else ""
        tiles.append(Tile("parameters", wording.short_count(winner.parameters), against))
    if winner.latency_ms is not None:
        base = result.tuned.latency_ms
        against = f"tuned baseline {wording.cost_text('latency_ms', base)}" if base is not None else ""
        tiles.append(Tile(measure.latency, wording.cost_text("latency_ms", winner.latency_ms), against))
    return tuple(tiles)


def _attention_tile(result: StudyResult) -> tuple[Tile, ...]:
    if not result.has_candidate:
        return (Tile("attention alone gained", wording.NONE, "no candidate among the finalists"),)
    found = result.attention
    note = _band_note(found, result.objective.measure)
    return (Tile("attention alone gained", wording.signed(found.gain), note, found.verdict),)


def _band_note(found: Difference, measure: Measure) -> str:
    if found.band is None:
        return f"one {'fold' if found.folds else 'seed'}: no noise band"
    return f"± {found.band:.4f}{measure.of_unit}"


@dataclass(frozen=True)
class StageView:
    """One of the six stages, with its trials counted."""

    name: str
    summary: str
    decision: str
    facts: tuple[str, ...]


def stage_views(result: StudyResult) -> tuple[StageView, ...]:
    """All six stages in order; one that the study did not describe is described by its trials."""
    told = {stage.name: stage for stage in result.stages}
    views = []
    for name in STAGES:
        stage = told.get(name, StageResult(name=name, summary=""))
        trials = [trial for trial in result.trials if trial.stage == name]
        summary = stage.summary
        if not summary and name == "deployment" and result.deployment is not None:
            check = result.deployment
            answer = "the same logits" if check.passed else "different logits"
            summary = (
                f"Saved, reloaded in a fresh process: {answer} (largest difference {check.max_logit_difference:.2g})."
            )
        facts = []
        for status in ("complete", "pruned", "failed", "refused"):
            count = sum(trial.status == status for trial in trials)
            if count:
                facts.append(f"{count} {status}")
        tokens = stage.tokens or sum(trial.tokens for trial in trials)
        seconds = stage.seconds or sum(trial.seconds for trial in trials)
        facts += [f"{wording.short_count(tokens)} tokens"] if tokens else []
        facts += [wording.duration_text(seconds)] if seconds else []
        views.append(StageView(name, summary or ("" if trials else "Not reached."), stage.decision, tuple(facts)))
    return tuple(views)


def curve_series(result: StudyResult) -> tuple[charts.CurveSeries, ...]:
    """The learning curves of baseline, tuned baseline and winner, from their trial records."""
    series = []
    for name, label in wording.arm_names(result).items():
        curves = tuple(trial.curve for trial in result.finals(name) if len(trial.curve) > 1)
        if curves:
            series.append(charts.CurveSeries(name, label, curves))
    return tuple(series)


def _cost_charts(result: StudyResult) -> tuple[tuple[tuple[str, Markup], ...], tuple[str, ...]]:
    """A picture for each cost that differs between the points, and the others in words: `parameters 13.3k`."""
    drawn, equal = [], []
    for cost in COSTS:
        points, name = cost_points(result, cost), wording.COST_NAMES[cost]
        texts = {wording.cost_text(cost, point.cost) for point in points}
        if len(points) > 1 and len(texts) == 1:
            equal.append(f"{name} {texts.pop()}")
            continue
        text = partial(wording.cost_text, cost)
        chart = charts.quality_against_cost(points, name, text, result.objective.measure)
        if chart is not None:
            drawn.append((name, chart))
    return tuple(drawn), tuple(equal)


def cost_points(result: StudyResult, cost: Cost) -> tuple[charts.CostPoint, ...]:
    """Every complete trial of the search as a point, and every finalist as one, its seeds averaged."""
    if cost in MORE_IS_BETTER:
        raise ValueError(f"the picture draws costs where less is better, got {cost}")
    points, names = [], wording.arm_names(result)
    pairs = "folds" if result.folds else "seeds"
    for trial in result.trials:
        value = cost_of(trial, cost)
        if (
            trial.status == "complete"
            and not trial.arm.startswith("final:")
            and value is not None
            and trial.loss is not None
        ):
            points.append(charts.CostPoint(value, trial.loss, "trial", f"trial {trial.number} ({trial.arm})"))
    for arm in finalists(result):
        value = None if cost == "tokens" else getattr(arm, cost)
        if value is not None:
            kind = arm.name if arm.name in names else "ablation"
            points.append(
                charts.CostPoint(value, arm.loss, kind, f"{names.get(arm.name, arm.name)}, mean over {pairs}")
            )
    return tuple(points)


def _layer_pairs(pictures: ReportPictures, names: Mapping[str, str]) -> list[tuple[int, list[tuple[str, LayerView]]]]:
    views = [
        (name, layer_views(picture, name))
        for name, picture in ((names["baseline"], pictures.baseline), (names["winner"], pictures.winner))
        if picture is not None
    ]
    depth = max((len(layers) for _, layers in views), default=0)
    return [
        (number + 1, [(name, layers[number]) for name, layers in views if number < len(layers)])
        for number in range(depth)
    ]


def _bound_values(result: StudyResult) -> list[tuple[str, str, bool | None]]:
    """Every bound in words, the winner's value, and whether it keeps the bound (None where it was not measured)."""
    rows = []
    for bound in result.objective.constraints:
        value = None if bound.cost == "tokens" else getattr(result.winner, bound.cost)
        met = None if value is None else bound.met_by(value)
        rows.append((wording.constraint_text(bound), wording.cost_text(bound.cost, value), met))
    return rows


@dataclass(frozen=True)
class TrialTable:
    """All trials, with a column for each setting that differs between trials; the others are said once."""

    constant: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TrialRecord, tuple[tuple[str, str], ...]], ...]  # (trial, ((sort key, text), ...))


def _trial_table(trials: Sequence[TrialRecord]) -> TrialTable:
    names = dict.fromkeys(name for trial in trials for name in trial.settings if name != "attention")
    varied, constant = [], []
    for name in names:
        values = {repr(trial.settings.get(name)) for trial in trials}
        if len(values) == 1:
            constant.append(f"{name} {wording.setting_text(trials[0].settings[name])}")
        else:
            varied.append(name)

    def cell(value: Scalar | None) -> tuple[str, str]:
        return ("", wording.NONE) if value is None else (str(value), wording.setting_text(value))

    rows = tuple((trial, tuple(cell(trial.settings.get(name)) for name in varied)) for trial in trials)
    return TrialTable(", ".join(constant), tuple(varied), rows)
