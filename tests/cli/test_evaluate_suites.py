"""`attentune evaluate --suite`: what is printed, what is kept, and what is refused."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from attentune.cli import main
from attentune.cli.evaluate import Options, RecipeOptions
from attentune.data.tokenizers import train_tokenizer
from attentune.evaluation.suites import SUITES
from attentune.evaluation.suites.needle import Needle
from attentune.evaluation.suites.suite import Recipe
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.checkpoint import save_model
from attentune.spec.model import ModelSpec
from attentune.training.suite import Cell, CellResult, train_cell

SUITE = "recall(pairs=2, row=8, vocabulary=24)"
NUMBERS = {"width": 16, "examples": 96, "test-examples": 16, "batch": 16, "epochs": 2}
SMALL = [word for name, number in NUMBERS.items() for word in (f"--recipe.{name}", str(number))]
ATTENTION = ["--layer", "heads=1, mask=causal"]
TEXT = "the cat sat on the mat and looked at another cat. " * 60


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["evaluate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_suite_trains_seeds_keeps_them_and_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["--suite", SUITE, *ATTENTION, *SMALL, "--seeds", "2", "--out", str(out)]
    found = evaluated(capsys, *command)
    assert found["suite"] == SUITE and found["layers"] == ["heads=1, mask=causal"]
    assert (found["depth"], found["recipe"]["width"], found["recipe"]["epochs"]) == (2, 16, 2)
    assert [cell["seed"] for cell in found["cells"]] == [0, 1]
    assert json.loads((out / "results.json").read_text()) == found
    assert evaluated(capsys, *command) == found  # the same seconds: nothing was trained again
    assert main(["evaluate", *command]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy {found['accuracy']:.4f} ± {found['spread']:.4f} over 2 seeds at learning rate 0.003" in shown
    assert shown.count("\n") == 5


def test_patterns_depth_and_learning_rates(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = ["--layer", "branches=short_conv(3); heads=1, mask=causal", "--depth", "4"]
    found = evaluated(capsys, "--suite", SUITE, *pattern, *SMALL, "--seeds", "1", "--learning-rates", "1e-3", "1e-2")
    assert found["layers"] == ["branches=short_conv", "heads=1, mask=causal"]
    assert found["depth"] == 4 and found["spread"] is None
    assert sorted(cell["learning_rate"] for cell in found["cells"]) == [1e-3, 1e-2]
    assert found["recipe"]["learning_rate"] == found["learning_rate"]
    one = ["--learning-rates", "1e-3", "--layer", "branches=short_conv(3)", "--layer", "heads=1, mask=causal"]
    found = evaluated(capsys, "--suite", SUITE, *one, *SMALL, "--seeds", "1")
    assert found["layers"] == ["branches=short_conv", "heads=1, mask=causal"]
    assert found["recipe"]["learning_rate"] == found["learning_rate"] == 1e-3


def test_an_interrupted_suite_keeps_what_has_ended(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def interrupted(cell: Cell, **options: Any) -> CellResult:
        if cell.seed == 1 and trained == [0]:
            raise KeyboardInterrupt
        trained.append(cell.seed)
        return train_cell(cell, **options)

    monkeypatch.setattr("attentune.training.suite.train_cell", interrupted)
    command = ["--suite", SUITE, *ATTENTION, *SMALL, "--seeds", "2", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *command]) == 130
    assert "goes on after the trainings that have ended: attentune evaluate --suite" in capsys.readouterr().err
    trained.append(-1)
    assert [cell["seed"] for cell in evaluated(capsys, *command)["cells"]] == [0, 1]
    assert trained == [0, -1, 1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = train_tokenizer("char", [TEXT, Needle().alphabet])
    spec = ModelSpec(
        vocab_size=tokenizer.vocab_size, width=16, depth=1, context=160, layers=(layer("heads=2, mask=causal"),)
    )
    save_model(folder, build(spec, seed=0), tokenizer=tokenizer)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_needles_for_a_model(capsys: pytest.CaptureFixture[str], model: Path, text: Path) -> None:
    command = [str(model), "--suite", "needle(lengths=(120, 160), depths=(0, 1))", "--data", str(text)]
    found = evaluated(capsys, *command, "--recipe.test-examples", "8")
    assert found["rows"] == 8 and found["accuracy"] == 0.0  # four digits by chance
    assert list(found["groups"]) == [
        "length 120, depth 0",
        "length 120, depth 1",
        "length 160, depth 0",
        "length 160, depth 1",
    ]
    assert main(["evaluate", *command, "--recipe.test-examples", "4"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{text}: 0.0% of 4 needles found"
    assert shown[1].split() == ["depth", "120", "160", "tokens"]
    assert [line.split() for line in shown[2:]] == [["0", "0.00", "0.00"], ["1", "0.00", "0.00"]]


@pytest.mark.filterwarnings("default::attentune.data.encoding.DataWarning")
def test_characters_of_the_text_may_be_skipped(capsys: pytest.CaptureFixture[str], model: Path, text: Path) -> None:
    text.write_text(f"É{TEXT}")
    command = [str(model), "--suite", "needle(lengths=120, depths=0)", "--data", str(text)]
    assert main(["evaluate", *command]) == 2
    assert "--unknown skip" in capsys.readouterr().err
    found = evaluated(capsys, *command, "--recipe.test-examples", "4", "--unknown", "skip")
    assert found["rows"] == 4


def test_a_model_is_trained_to_find_needles(capsys: pytest.CaptureFixture[str], text: Path) -> None:
    suite = ["--suite", "needle(lengths=120, depths=(0, 1))", "--data", str(text)]
    found = evaluated(capsys, *suite, *ATTENTION, *SMALL, "--seeds", "1")
    assert list(found["groups"]) == ["length 120, depth 0", "length 120, depth 1"]
    assert found["cells"][0]["score"]["rows"] == 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name the folder of a model, or a --suite"),
        (["--suite", "recall"], "name the layers to train: --layer"),
        (["--suite", "recal", *ATTENTION], "unknown suite 'recal'; did you mean 'recall'?"),
        (["--suite", "recall", *ATTENTION, "--limit", "9"], "--limit does not go with --suite"),
        (["--suite", "recall", *ATTENTION, "--data", "TEXT"], "--data does not go with suite recall"),
        (["--suite", "recall", *ATTENTION, "--unknown", "skip"], "--unknown is for models that are trained already"),
        (
            ["MODEL", "--suite", "needle(question='É?')", "--data", "TEXT"],
            "does not know every character of the needles",
        ),
        (["MODEL", *ATTENTION], "--layer needs --suite"),
        (["MODEL", "--seeds", "2"], "--seeds needs --suite"),
        (["MODEL", "--suite", "recall"], "in tokens of its own, which no trained model knows"),
        (["MODEL", "--suite", "needle", "--depth", "2"], "--depth is for models that are trained from scratch"),
        (["MODEL", "--suite", "needle", "--recipe.epochs", "2"], "--recipe.epochs is for models that are trained"),
        (["MODEL", "--suite", "needle(lengths=50)", "--data", "TEXT"], "a row of 50 tokens has no room for text"),
        (["--suite", "palindrome", "--layer", "heads=1"], "mask=full would see the answer itself"),
        (["--suite", "recall", "--layer", "heads=1; heads=1; heads=1"], "more than depth=2"),
        (
            ["--suite", "recall", "--layer", "heads=1;"],
            "--layer 'heads=1;': no layer stands beside a `;`; leave it out",
        ),
        (
            ["--suite", "recall", "--layer", "heads=1,", "mask=causal"],
            "has come in 2 pieces: put the whole text in quot",
        ),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], model: Path, text: Path, arguments: list[str], says: str
) -> None:
    places = {"TEXT": str(text), "MODEL": str(model)}
    assert main(["evaluate", *(places.get(argument, argument) for argument in arguments)]) == 2
    caught = capsys.readouterr().err
    assert caught.startswith("attentune: error: ") and caught.count("\n") == 1
    assert says in caught


def test_the_help_names_every_suite_and_option() -> None:
    documentation = inspect.getdoc(Options)
    assert documentation is not None
    for name, suite in SUITES.items():
        options = ", ".join(field for field in suite.model_fields if field != "kind")
        assert f"{name}({options}): " in documentation


def test_every_number_of_a_recipe_can_be_changed() -> None:
    assert set(RecipeOptions.model_fields) == set(Recipe.model_fields) - {"depth", "learning_rate"}
