"""The model card: `README.md` of the folder `best/`, in Markdown with the front matter that model hubs read."""

from __future__ import annotations

import json
import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined

from attentune.search import wording
from attentune.search.analysis import noise_band
from attentune.search.result import ArmResult, Measure, StudyResult


def model_card(result: StudyResult) -> str:
    """The card of the winner of `result`: what it is, its numbers with their spread, how to use it, its limits."""
    environment = Environment(
        loader=PackageLoader("attentune.search", "templates"),
        autoescape=False,  # Markdown: what comes from outside goes through `fenced` and `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fenced=fenced, cell=cell, quoted=json.dumps, shell=shlex.quote)
    return environment.get_template("card.md.j2").render(
        result=result,
        words=wording,
        verdict=wording.verdict_sentences(result),
        measure=result.objective.measure,
        pair="fold" if result.folds else "seed",
        arms=[
            (name, arm, spread(arm, result.objective.measure, folds=result.folds))
            for name, arm in (
                ("untuned baseline", result.baseline),
                ("tuned baseline", result.tuned),
                ("**this model's recipe**", result.winner),
            )
        ],
    )


def spread(arm: ArmResult, measure: Measure, *, folds: int = 0) -> str:
    """`1.6971 ± 0.0035`: the mean over the seeds and half of its 95 % confidence interval, where that is known."""
    band = noise_band(arm.losses, folds=folds)
    return measure.text(arm.loss) + ("" if band is None else f" ± {band:.4f}")


def fenced(text: str) -> str:
    """`text` as a code block, whatever backticks it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def cell(text: str) -> str:
    """`text` as code inside a table's cell."""
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", " ") + "`"
