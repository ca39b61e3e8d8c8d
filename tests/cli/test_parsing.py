"""From arguments and TOML to options: every mistake is one line that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions, Help, UsageError, parse, read_toml
from attentune.spec.run import RunSpec
from attentune.spec.value import Frozen

EXAMPLES = """
    attentune bake bread.toml
    attentune bake --steps 3
"""


class Oven(Frozen):
    """Where it happens."""

    heat: Annotated[float, Field(gt=0)] = 200.0  # degrees


class Options(CommandOptions, RunSpec):
    """Bake a loaf."""

    recipe: tyro.conf.Positional[str] = "white"  # its name
    config: Path | None = None  # TOML file
    oven: Oven = Oven()


def read(*arguments: str) -> Options:
    return parse(Options, arguments, command="bake", examples=EXAMPLES)


def mistake(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_reach_nested_values() -> None:
    options = read("rye", "--steps", "7", "--optimizer.learning-rate", "0.5", "--oven.heat=230", "--json")
    assert (options.recipe, options.steps, options.json_) == ("rye", 7, True)
    assert options.optimizer.learning_rate == 0.5
    assert options.oven.heat == 230.0
    assert options.batch == RunSpec().batch


def test_the_file_gives_defaults_that_flags_override(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('recipe = "rye"\nsteps = 7\n[optimizer]\nname = "muon"\nlearning_rate = 0.5\n')
    options = read("--config", str(path), "--optimizer.learning-rate", "0.25")
    assert (options.recipe, options.steps, options.config) == ("rye", 7, path)
    assert (options.optimizer.name, options.optimizer.learning_rate) == ("muon", 0.25)
    assert read(f"--config={path}", "wheat").recipe == "wheat"


def test_data_is_short_for_its_path() -> None:
    assert read("rye", "--data", "a.txt").data.path == "a.txt"
    assert read("rye", "--data=b=c.txt", "--data.column", "x").data.path == "b=c.txt"


def test_help_shows_examples_and_comments() -> None:
    with pytest.raises(Help) as caught:
        read("--help")
    text = str(caught.value)
    assert text.startswith("usage: attentune bake ")
    assert "Bake a loaf." in text
    assert "  attentune bake bread.toml\n  attentune bake --steps 3\n" in text
    assert "--oven.heat FLOAT" in text
    assert "degrees (default: 200.0)" in text
    assert "--no-json" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("rye", "--steps", "many"),
            "--steps: invalid literal for int() with base 10: 'many' (see attentune bake --help)",
        ),
        (("rye", "--steps", "0"), "--steps: input should be greater than or equal to 1, got 0 (see"),
        (("rye", "--steps"), "Missing value for argument '--steps'"),
        (("rye", "--oven.heat", "-3"), "--oven.heat: input should be greater than 0, got -3.0 (see"),
        (("rye", "--optimizer.name", "sgd"), "invalid choice 'sgd' for argument '--optimizer.name'"),
        (("rye", "--batch", "5", "--accumulate", "2"), "accumulate must divide batch, got batch=5, accumulate=2 (see"),
        (("rye", "--stesp", "3"), "unknown option '--stesp'; did you mean --steps"),
        (
            ("rye", "--learning-rate=3"),
            "unknown option '--learning-rate'; did you mean --optimizer.learning-rate? (see",
        ),
        (("rye", "--zzz"), "unknown option '--zzz' (see attentune bake --help)"),
        (("rye", "wheat"), "unexpected argument 'wheat'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments: tuple[str, ...], says: str) -> None:
    assert mistake(*arguments).startswith(says)


class Required(CommandOptions):
    """Eat a loaf."""

    loaf: tyro.conf.Positional[Path]  # which one


def test_what_is_required_is_named() -> None:
    with pytest.raises(UsageError, match=r"Missing from attentune eat: PATH which one \(required\) \(see"):
        parse(Required, [], command="eat", examples="attentune eat rye")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"steps = = 3", "is not valid TOML: Invalid value (at line 1, column 9)"),
        (b"stesp = 3", "stesp is unknown; did you mean 'steps'? known: accumulate, batch"),
        (b"json_ = true", "json_ is unknown"),
        (b"[oven]\nhaet = 3", "oven.haet is unknown; "),
        (b"[optimizer]\nlearning_rate = -1", "optimizer.learning_rate: input should be greater than 0, got -1"),
        (b"recipe = '\xff'", "is not UTF-8 text (byte 10), as TOML files are"),
    ],
)
def test_mistakes_in_the_file_are_one_line_that_names_it(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    assert mistake("rye", "--config", str(path)).startswith(f"{path}: {says}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    assert mistake("rye", "--config", str(absent)) == f"{absent}: no such file"
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)
