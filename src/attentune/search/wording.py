"""How the report and the card write numbers and verdicts: the same rounding and the same sentences everywhere.

Losses, scores and gains show four digits after the point, gains their sign and noise band; a gain within its band is
noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attentune.search.result import Constraint, Cost, Difference, Measure, Scalar, StudyResult, tried

NONE: Final = "–"
COST_NAMES: Final[Mapping[Cost, str]] = {
    "parameters": "parameters",
    "latency_ms": "latency",
    "seconds": "training time",
    "tokens_per_second": "training speed",
    "peak_bytes": "peak memory",
    "tokens": "training tokens",
}
ARM_NAMES: Final[Mapping[str, str]] = {
    "baseline": "untuned baseline",
    "tuned": "tuned baseline",
    "winner": "winner",
}


def arm_names(result: StudyResult) -> dict[str, str]:
    """The finalists by their names; a candidate that was not good enough to be shipped is no winner.

    One that is shipped is, also where it won at the objective's prices and not by its quality.
    """
    won = result.deployed == "winner" or (result.deployed is None and result.attention.verdict == "gain")
    return {**ARM_NAMES, "winner": "winner" if won else "best candidate"}


def signed(value: float) -> str:
    """`+0.0512`, with a true minus sign; four digits after the point."""
    rounded = f"{abs(value):.4f}"
    if float(rounded) == 0:
        return rounded
    return ("+" if value > 0 else "−") + rounded


def loss_text(value: float | None) -> str:
    """A loss with four digits after the point."""
    return NONE if value is None else f"{value:.4f}"


def gain_text(found: Difference) -> str:
    """`+0.0512 ± 0.0101`; without the band where it is unknown."""
    return signed(found.gain) + ("" if found.band is None else f" ± {found.band:.4f}")


def count_text(value: float | None) -> str:
    """A whole number with separators: `804,096`."""
    return NONE if value is None else f"{round(value):,}"


def short_count(value: float | None) -> str:
    """A count of three digits with a letter: `804k`, `1.54M`."""
    if value is None:
        return NONE
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def bytes_text(value: float | None) -> str:
    """Memory in decimal units: `212 MB`."""
    if value is None:
        return NONE
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def duration_text(seconds: float | None) -> str:
    """A time span in the two largest units that matter: `57 min 12 s`."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def cost_text(cost: Cost, value: float | None) -> str:
    """The value of a cost with its unit."""
    if value is None:
        return NONE
    if cost == "latency_ms":
        return f"{value:.3g} ms"
    if cost == "seconds":
        return duration_text(value)
    if cost == "tokens_per_second":
        return f"{short_count(value)} tokens/s"
    if cost == "peak_bytes":
        return bytes_text(value)
    return short_count(value)


def setting_text(value: Scalar) -> str:
    """The value of one setting, short but exact enough to be told from its neighbours."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_text(settings: Mapping[str, Scalar]) -> str:
    """All settings but the attention in one line: `learning_rate 0.004, optimizer muon`."""
    return ", ".join(f"{name} {setting_text(value)}" for name, value in settings.items() if name != "attention")


def constraint_text(bound: Constraint) -> str:
    """The bound as a phrase: `latency at most 5 ms`."""
    limits = []
    if bound.at_least is not None:
        limits.append(f"at least {cost_text(bound.cost, bound.at_least)}")
    if bound.at_most is not None:
        limits.append(f"at most {cost_text(bound.cost, bound.at_most)}")
    return f"{COST_NAMES[bound.cost]} {' and '.join(limits) or 'unbounded'}"


def judgement(subject: str, found: Difference, measure: Measure, *, further: bool = False) -> str:
    """One plain sentence on what `subject` bought, for a reader who reads nothing else."""
    count, kind, name = len(found.gains), "fold" if found.folds else "seed", f"validation {measure.name}"
    pairs = f"{count} folds" if found.folds else f"{count} paired seeds"
    if not found.enough_seeds:
        seeds = f"one {kind} is" if count == 1 else f"two {kind}s are"
        return (
            f"{subject} changed the {measure.name} by {gain_text(found)} (positive is better), "
            f"but {seeds} not enough to tell."
        )
    size = f"{abs(found.gain):.4f} ± {found.band:.4f}{measure.of_unit} ({pairs})"
    if found.verdict == "gain":
        did = "raised" if measure.higher_is_better else "lowered"
        return f"{subject} {did} the {name} by {'a further ' if further else ''}{size}."
    if found.verdict == "loss":
        return f"{subject} made the {name} worse by {size}."
    return f"{subject} brought no improvement beyond noise: {gain_text(found)}{measure.of_unit} ({pairs})."


def verdict_sentences(result: StudyResult) -> tuple[str, str]:
    """What tuning gained and what the attention alone gained, each with its band: the top of report and card.

    Of a winner that is shipped for its cost and not for its quality, what it saves.
    """
    measure = result.objective.measure
    tuning = judgement("Tuning the baseline", result.tuning, measure)
    if not result.has_candidate and not tried(result.trials):
        return tuning, "No candidate attention was tried: the budget was too small, so the baseline's own stays."
    if not result.has_candidate:
        return tuning, "No candidate attention was better than the tuned baseline's own, which therefore stays."
    further = result.tuning.verdict == "gain" and result.attention.verdict == "gain"
    attention = judgement("The attention alone", result.attention, measure, further=further)
    if result.deployed == "winner" and result.attention.verdict != "gain" and result.attention.saved > 0:
        than = "more than it loses in quality" if result.attention.verdict == "loss" else "beyond noise"
        attention += f" At the objective's prices it saves {result.attention.saved:.4f}, {than}: it is deployed."
    return tuning, attention
