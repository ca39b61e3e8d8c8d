"""The file of a training as the file of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from attentune.cli.optimize import EXAMPLES, Options
from attentune.cli.parsing import parse
from attentune.cli.words import UsageError
from attentune.search.recipe import baseline_recipe, run_spec
from attentune.search.space import StudySpec
from attentune.tasks.registry import read_task

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OF_TASKS = [path.name for path in sorted(CONFIGS.glob("*.toml")) if "\ntask = " in path.read_text(encoding="utf-8")]


TRAINING = """
task = "translate(source=de, target=en)"
epochs = 12
average = 3
precision = "bf16"
[model]
width = 256
depth = 3
layers = "heads=8, position=rotary, mask=causal, cross=attention(heads=8)"
[model.encoder]
layers = "heads=8, position=rotary, mask=full"
[model.feed_forward]
name = "relu"
hidden = 512
[optimizer]
learning_rate = 2e-3
beta2 = 0.98
[schedule]
warmup = 200
floor = 0.0
[regularizer]
label_smoothing = 0.1
"""


def study(path: Path, *arguments: str) -> StudySpec:
    options = parse(Options, ["--config", str(path), *arguments], command="optimize", examples=EXAMPLES)
    return StudySpec(**{name: getattr(options, name) for name in StudySpec.model_fields})


@pytest.mark.parametrize("name", OF_TASKS)
def test_the_shipped_trainings_are_studies_too(name: str) -> None:
    spec = study(CONFIGS / name)
    base = baseline_recipe(spec, read_task(spec.task).stack)
    assert "none" not in base.attention()
    assert base.settings == spec.settings
    assert len(spec.seeds) == 3


def test_a_training_becomes_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(TRAINING, encoding="utf-8")
    spec = study(path, "--budget", "20m")
    base = baseline_recipe(spec, "encoder-decoder")
    one = "heads=8, position=rotary"
    assert base.attention() == f"{one}, mask=causal, cross=attention(heads=8) | encoder: {one}"
    assert (spec.epochs, spec.average, spec.budget) == (12, 3, "20m")
    assert (spec.model.feed_forward, spec.model.hidden, spec.model.heads) == ("relu", 512, 8)
    run = run_spec(base, spec, steps=1000, seed=0)
    assert (run.schedule.warmup, run.schedule.floor, run.optimizer.beta2) == (200, 0.0, 0.98)
    assert run_spec(base, spec, steps=100, seed=0).schedule.warmup == 50
    assert (run.precision, run.average, run.regularizer.label_smoothing) == ("bf16", 3, 0.1)
    assert spec.tuning.learning_rates["adamw"] == pytest.approx((5e-4, 8e-3))
    assert spec.tuning.precisions == ("bf16",)


def test_layers_that_alternate_and_added_positions_stay(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(
        'task = "classify"\nseed = 5\nseeds = 4\n[model]\nposition = "learned"\ndepth = 2\n'
        'layers = ["heads=2, mask=full", "heads=2, position=alibi, mask=full"]\n',
        encoding="utf-8",
    )
    spec = study(path)
    assert spec.seeds == (5, 6, 7, 8)
    base = baseline_recipe(spec, "encoder")
    assert base.added_position() == "learned"
    assert [layer.attention.position is None for layer in base.layers() if layer.attention] == [True, False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[optimizer]\nepsilon = 1e-6", "optimizer.epsilon cannot be said of a study"),
        ("evaluate_every = 3\n[schedule]\nwarmup = 3", "evaluate_every is for `attentune train`"),
        ('[model]\nlayers = "heads=2"\nhead_bias = true', "model.head_bias cannot be said of a study"),
        ("optimizer = 3", r"optimizer is a table: write \[optimizer\]"),
    ],
)
def test_what_a_study_cannot_hold_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "train.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=rf"train\.toml: {says}"):
        study(path)
