"""The entry point: dispatch, exit codes, and what users see when something goes wrong."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import attentune
from attentune import cli
from attentune.cli.console import activity, known_prompt, print_json
from attentune.cli.parsing import CommandOptions, parse
from attentune.errors import DataError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the module behind `attentune train`; tests set its `run`."""
    module = SimpleNamespace(Options=CommandOptions, EXAMPLES="attentune train", run=lambda options: 0)
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    return module


def failing(error: BaseException):  # type: ignore[no-untyped-def]
    def run(options: CommandOptions) -> int:
        raise error

    return run


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"attentune {attentune.__version__}\n"
    assert cli.main([]) == cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optimise", "unknown command 'optimise'; did you mean 'optimize'? known: "),
        ("--verison", "unknown option '--verison'; did you mean '--version'? known: "),
    ],
)
def test_misspelt_commands_get_a_near_name(capsys: pytest.CaptureFixture[str], word: str, says: str) -> None:
    assert cli.main([word]) == 2
    caught = capsys.readouterr()
    assert caught.err.startswith(f"attentune: error: {says}")
    assert caught.err.count("\n") == 1
    assert caught.out == ""


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example_and_json(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"\nexamples:\n  attentune {name}" in shown
    assert "--json " in shown


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_example_of_the_help_is_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    module = import_module(f"attentune.cli.{name}")
    examples = [line.strip() for line in module.EXAMPLES.strip().splitlines()]
    assert examples
    for example in examples:
        program, command, *words = shlex.split(example.partition(" > ")[0])
        assert (program, command) == ("attentune", name)
        assert isinstance(parse(module.Options, words, command=name, examples=""), module.Options)


def test_help_does_not_wait_for_torch() -> None:
    quick = [name for name in cli.COMMANDS if name != "optimize"]  # whose options are the study's own value
    script = "import sys; from attentune.cli import main; main(['--help']); "
    script += "; ".join(f"main([{name!r}, '--help'])" for name in quick)
    script += "; print([name for name in ('torch', 'optuna', 'matplotlib') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_errors_of_users_are_one_line_and_code_2(command: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError("book.txt is empty;\n  give a file with text")
    error.add_note("See --help.")
    command.run = failing(error)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "attentune: error: book.txt is empty; give a file with text See --help.\n"


def test_our_bugs_keep_their_traceback(command: SimpleNamespace) -> None:
    command.run = failing(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_an_interrupt_says_how_to_go_on(
    command: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command.run = failing(KeyboardInterrupt())
    monkeypatch.setattr(cli, "parse", lambda options, rest, *, command, examples: None)
    assert cli.main(["train", "--json"]) == 130
    assert capsys.readouterr().err == (
        "attentune: interrupted; the same command goes on where it stopped: attentune train --json\n"
    )
    for again in ("evaluate --suite recall --out=a", "evaluate --out a --suite=recall"):
        assert cli.main(again.split()) == 130
        assert capsys.readouterr().err == (
            f"attentune: interrupted; the same command goes on after the trainings that have ended: attentune {again}\n"
        )
    piped = ("predict m --input - --output a", "predict m --input=- --output a", "predict m --input a --output -")
    for nothing_is_kept in ("plan", "evaluate --suite recall", "evaluate model --limit 3", *piped):
        assert cli.main(nothing_is_kept.split()) == 130
        assert capsys.readouterr().err == "attentune: interrupted\n"


def test_warnings_are_one_line_and_said_once(command: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    def run(options: CommandOptions) -> int:
        warnings.warn("notes.bin skipped:\nnot text", stacklevel=1)
        warnings.warn("notes.bin skipped:\nnot text", stacklevel=2)  # said once
        warnings.warn("a library will change", FutureWarning, stacklevel=1)
        return 1

    command.run = run
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "attentune: warning: notes.bin skipped: not text\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = "import sys; from attentune.cli import main; sys.exit(main(['mechanisms']))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_json_has_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "curve": [(1, float("inf"))], "path": Path("a"), "text": "é"})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "curve": [[1, None]], "path": "a", "text": "é"}


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 16.0, 20.0, 32.0])
    monkeypatch.setattr("attentune.cli.console.time.monotonic", lambda: next(now))
    with activity("training") as report:
        report(1, 9)
        report(2, 9, "loss 3.1")
        report(3, 9)
        report(4, 0)
    caught = capsys.readouterr()
    assert caught.err == "training: 2/9  loss 3.1\ntraining: 4\n"
    assert caught.out == ""


def test_progress_of_a_share_is_in_percent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 16.0])
    monkeypatch.setattr("attentune.cli.console.time.monotonic", lambda: next(now))
    with activity("training", percent=True) as report:
        report(430, 1000, "loss 3.1")
    assert capsys.readouterr().err == "training: 43%  loss 3.1\n"


def test_a_prompt_to_try_is_a_word_of_the_text() -> None:
    assert known_prompt("\n - --x The cat") == ["--prompt", "The"]
    assert known_prompt(" \n") == []
