"""`attentune optimize`: the main job."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions
from attentune.search.space import StudySpec

EXAMPLES = """
    attentune optimize --data book.txt --task lm --budget 10m --out runs/book
    attentune optimize --data notes/ --budget 50M-tokens --seeds 0 1 2 3 4 --objective.max-parameters 1e6
    attentune optimize --config configs/demo.toml --model.width 64 --tuning.trials 4 --json
"""


class Options(CommandOptions, StudySpec):
    """Find the attention and the settings that serve a text best, in six stages of one study.

    objective, adaptivity, long range, parameters, evaluation, deployment. The folder then holds `report.html`,
    `ledger.csv`, `study.db` and, in `best/`, the model. The same command goes on where it was interrupted.

    Keys of the TOML file are the options without dashes: `budget = "10m"`, `[model] width = 128`. Candidates stand
    only there: `[candidates] position = ["rotary", "alibi"]`.
    """

    config: Path | None = None  # TOML file of the study, whose settings the options override
    out: Path = Path("runs/study")  # folder of the study
    restart: bool = False  # throw an earlier study in the folder away
    candidates: tyro.conf.Suppress[dict[str, tuple[str, ...]]] = Field(default_factory=dict)  # by slot


def run(options: Options) -> int:
    """Run the study, or what is left of it, and print what it found; 1 where the deployed model failed its check."""
    from attentune.cli.study_view import StudyView, study_text
    from attentune.search.study import optimize

    spec = StudySpec(**{name: getattr(options, name) for name in StudySpec.model_fields})
    with StudyView() as view:
        result = optimize(spec, out=options.out, resume=not options.restart, progress=view)
    print(result.to_json() if options.json_ else study_text(result, options.out))
    return 0 if result.deployment is None or result.deployment.passed else 1
