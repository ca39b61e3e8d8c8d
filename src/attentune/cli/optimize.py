"""`attentune optimize`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions
from attentune.cli.study_config import is_of_training, study_of
from attentune.cli.task_defaults import LANGUAGE
from attentune.cli.train import NgramOptions, language_column, of_column
from attentune.search.space import ModelSizes, StudySpec

EXAMPLES = """
    attentune optimize --data book.txt --task lm --budget 10m --out runs/book
    attentune optimize --data notes/ --budget 50M-tokens --seeds 0 1 2 3 4 --objective.max-parameters 1e6
    attentune optimize --config configs/demo.toml --model.width 64 --tuning.trials 4 --json
    attentune optimize --task "classify(text=review, label=stars)" --data train.csv --budget 20m --out runs/stars
    attentune optimize --config configs/stockemotions.toml --data train.csv --validation-path val.csv --budget 30m
"""


class SizesOptions(ModelSizes):
    """The model around the attention; its flags are those of `attentune train` where the names are the same."""

    # of a model that sees texts whole, or of the encoder beside a decoder
    ngrams: NgramOptions = NgramOptions()  # type: ignore[assignment]

    def sizes(self) -> ModelSizes:
        """The same as a study has it."""
        fields = {name: getattr(self, name) for name in ModelSizes.model_fields}
        return ModelSizes(**{**fields, "ngrams": self.ngrams.spec()})


class Options(CommandOptions, StudySpec):
    """Find the attention and the settings that serve a text, or a task, best, in six stages of one study.

    objective, adaptivity, long range, parameters, evaluation, deployment. The folder then holds `report.html`,
    `ledger.csv`, `study.db` and, in `best/`, the model; of a task also `task/`, with what the model gets wrong. The
    same command goes on where it was interrupted.

    Without --task the loss of a language model is minimised; with one (see `attentune tasks`) the main score of the
    task on the validation records is maximised, of each run by its best weights. Unless they are named, the tokenizer
    of a task is bpe and its context 128.

    Keys of the TOML file are the options without dashes: `budget = "10m"`, `[model] width = 128`. Candidates stand
    only there: `[candidates] position = ["rotary", "alibi"]`, of an encoder-decoder also `[candidates.encoder]` and
    `[candidates.cross]`. The file of a training does as well: its model is then the baseline.
    """

    config: Path | None = None  # TOML file of the study, whose settings the options override
    out: Path = Path("runs/study")  # folder of the study
    restart: bool = False  # throw an earlier study in the folder away
    model: SizesOptions = SizesOptions()
    candidates: tyro.conf.Suppress[dict[str, tuple[str, ...]]] = Field(default_factory=dict)  # by slot

    @classmethod
    def understood(cls, table: dict[str, Any], path: Path) -> dict[str, Any]:
        """The table of a study, also where it is one of a training."""
        return study_of(table, path) if is_of_training(table) else table


def run(options: Options) -> int:
    """Run the study, or what is left of it, and print what it found; 1 where the deployed model failed its check."""
    from attentune.cli.study_view import StudyView, study_text
    from attentune.search.study import optimize

    if (column := language_column(options.task)) is not None:
        options = options.model_copy(update={"task": LANGUAGE, "data": of_column(options.data, column)})
    fields = {name: getattr(options, name) for name in StudySpec.model_fields}
    spec = StudySpec(**{**fields, "model": options.model.sizes()})
    with StudyView() as view:
        result = optimize(spec, out=options.out, resume=not options.restart, progress=view)
    print(result.to_json() if options.json_ else study_text(result, options.out))
    return 0 if result.deployment is None or result.deployment.passed else 1
