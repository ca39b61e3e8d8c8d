"""From arguments and TOML to options: every mistake is one line that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import tyro
from pydantic import Field

from attentune.cli.parsing import CommandOptions, Help, parse, read_toml
from attentune.cli.words import UsageError
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


def test_help_says_what_an_option_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    with pytest.raises(Help) as caught:
        read("--help")
    text = str(caught.value)
    assert "{None}|" not in text
    assert "--config PATH " in text
    assert "  --data[.path] PATH   " in text
    with pytest.raises(Help) as caught:
        parse(Several, ["--help"], command="bake", examples=EXAMPLES)
    assert "(default: )" not in str(caught.value)
    assert "\n\nBake several loaves. They are numbered in the order of their\nnames.\n\nexamples:\n" in str(
        caught.value
    )


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
        (b"stesp = 3", "stesp is unknown; did you mean 'steps'? known: accumulate, average"),
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


class Several(CommandOptions):
    """Bake several loaves. They are numbered in the order of their names."""

    loaves: tyro.conf.Positional[tuple[str, ...]] = ()  # their names
    seeds: tuple[int, ...] = ()  # on top
    layers: tuple[str, ...] = ()  # from bottom to top
    slice: bool = False  # cut them
    oven: Oven = Oven()
    price: dict[str, float] = Field(default_factory=dict)  # by loaf


def several(*arguments: str) -> Several:
    return parse(Several, arguments, command="bake", examples=EXAMPLES)


@pytest.mark.parametrize(
    "arguments",
    [
        ("rye", "--seeds", "1", "2", "--slice", "--seeds", "3"),
        ("rye", "--seeds=1", "--seeds", "2", "3", "--slice"),
        ("rye", "--seeds", "1", "--seeds=2", "--slice", "--seeds=3"),
        ("--seeds", "1", "2", "--slice", "--seeds=3", "rye"),
    ],
)
def test_an_option_of_several_values_collects_them(arguments: tuple[str, ...]) -> None:
    options = several(*arguments)
    assert (options.seeds, options.loaves, options.slice) == ((1, 2, 3), ("rye",), True)


def test_a_table_on_the_command_line_collects_too() -> None:
    assert several("--price", "rye", "3", "--price", "bun", "1").price == {"rye": 3.0, "bun": 1.0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--oven.heat", "3", "--slice", "--oven.heat=4"), "--oven.heat is given twice, as 3 and 4; give it once"),
        (("--slice", "--slice"), "--slice is given twice; give it once"),
        (("--slice", "--no-slice"), "--slice is given twice; give it once"),
        (("--wrong", "1", "--wrong", "2"), "unknown option '--wrong'"),
        (("--layers", "flour,", "water"), "--layers has come in 2 pieces: put the whole text in quotes"),
        (("--layers", "flour", "&", "water"), 'as in --layers "flour & water"'),
    ],
)
def test_what_is_given_twice_or_in_pieces_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        several(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_is_short_for_its_path_wherever_it_stands_twice() -> None:
    said = mistake("--data", "a.txt", "--data.path", "b.txt")
    assert said == "--data.path is given twice, as a.txt and b.txt; give it once"


def test_data_in_the_file_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('data = "book.txt"')
    assert mistake("--config", str(path)) == f'{path}: data is a table: write [data] and below it path = "book.txt"'
    path.write_text('[data]\npath = "book.txt"')
    assert read("--config", str(path)).data.path == "book.txt"
