"""`attentune bench attention` end to end on tiny cells, and what it says to mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attentune import cli
from attentune.cli import benching, main
from attentune.evaluation.speed import run
from attentune.evaluation.speed.contestant import picked
from attentune.evaluation.speed.grid import CORE, Case, Cell
from attentune.evaluation.speed.results import CellResult, Entry

TINY = ("--heads", "2", "--head-width", "4", "--window", "9", "--threads", "1", "--rounds", "2")
ONE = ("--masks", "window", "--scores", "none", "--lengths", "70", "--passes", "forward+backward")


def test_a_tiny_run_is_measured_kept_and_taken_up_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["bench", "attention", *TINY, *ONE, "--peers", "sdpa", "chunked", "--kernels", "sdpa"]
    arguments += ["--out", str(tmp_path / "bench"), "--json"]
    assert main(arguments) == 0
    data = json.loads(capsys.readouterr().out)
    (cell,) = data["cells"]
    entries = {one["name"]: one for one in cell["entries"]}
    assert entries["sdpa"]["status"] == "refused"
    assert entries["chunked"]["status"] == entries["attentune sdpa"]["status"] == "measured"
    for name in ("chunked", "attentune sdpa"):
        assert 1 <= len(entries[name]["seconds"]) <= 2  # two, unless the machine was taken away meanwhile
        assert entries[name]["median"] > 0
        assert 0 < entries[name]["error"] < 1e-4
        assert entries[name]["useful_share"] > 0
    assert cell["pairs"] == 2 * (9 * 10 // 2 + 61 * 9)
    assert cell["operations"] == cell["pairs"] * 14 * 4
    assert cell["matrix_rate"] > 0
    assert cell["pick"] == picked(Case(Cell("window", "none", 70, "forward+backward"), _setting(data)))
    assert data["setting"]["window"] == 9
    assert (tmp_path / "bench" / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert "| window | none | 70 |" in (tmp_path / "bench" / "table.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "bench" / "results.json").read_text(encoding="utf-8")) == data

    def never(*arguments: object) -> CellResult:
        raise AssertionError("a finished cell was measured again")

    monkeypatch.setattr(run, "measure_cell", never)
    assert main(arguments[:-1]) == 0
    assert "### forward+backward" in capsys.readouterr().out
    narrower = [
        "1" if before == "--heads" else word for before, word in zip(["", *arguments[:-1]], arguments, strict=True)
    ]
    assert main(narrower) == 2
    caught = capsys.readouterr().err
    assert "holds figures measured with heads 2 (now 1)" in caught
    assert caught.count("\n") == 1


def _setting(data: dict[str, Any]) -> Any:
    from attentune.evaluation.speed.grid import Setting

    held = data["setting"]
    return Setting(**{**held, "peers": tuple(held["peers"]), "kernels": tuple(held["kernels"])})


def stand_in(monkeypatch: pytest.MonkeyPatch, status: str = "measured") -> list[Case]:
    """Cells are not measured but noted."""
    seen: list[Case] = []

    def measure_cell(case: Case, cache: str, tell: object) -> CellResult:
        seen.append(case)
        entry = Entry("attentune sdpa", True, status, seconds=(0.5,) if status == "measured" else ())
        return CellResult(case.cell, (entry,), 1, 1.0, 1.0, "attentune sdpa")

    monkeypatch.setattr(run, "measure_cell", measure_cell)
    return seen


def test_the_core_leaves_out_what_is_no_news(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = stand_in(monkeypatch)
    assert main(["bench", "attention", "--core", "--out", str(tmp_path), "--json"]) == 0
    assert tuple(case.cell for case in seen) == CORE
    assert not {"flex", "reference"} & set(seen[0].setting.kernels)
    assert "sdpa" in seen[0].setting.kernels
    assert (seen[0].setting.heads, seen[0].setting.head_width, seen[0].setting.batch) == (8, 64, 1)


def test_the_grid_is_all_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = stand_in(monkeypatch)
    assert main(["bench", "attention", "--lengths", "4", "--peers", "none", "--out", str(tmp_path), "--json"]) == 0
    assert len(seen) == 8 * 4 * 4 - 3 * 4  # decoding is left out for full, bigbird and symmetric
    assert seen[0].setting.peers == ()
    assert "bigbird, decode: left out" in "".join(json.loads(capsys.readouterr().out)["findings"])


@pytest.mark.parametrize("status", ["wrong", "failed"])
def test_a_kernel_of_ours_that_is_wrong_is_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: str) -> None:
    stand_in(monkeypatch, status)
    assert main(["bench", "attention", *ONE, "--out", str(tmp_path), "--json"]) == 1


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = stand_in(monkeypatch)

    def interrupted(case: Case, cache: str, tell: object) -> CellResult:
        monkeypatch.undo()
        raise KeyboardInterrupt

    arguments = ["bench", "attention", "--masks", "causal", "--scores", "none", "--lengths", "4"]
    arguments += ["--out", str(tmp_path)]
    assert main([*arguments, "--passes", "forward"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(run, "measure_cell", interrupted)
    assert main([*arguments, "--passes", "forward", "decode"]) == 130
    said = capsys.readouterr().err
    assert "interrupted; the same command goes on where it stopped: attentune bench attention" in said
    assert len(list((tmp_path / "cells").iterdir())) == len(seen) == 1


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["bench", "attention", *ONE, "--out", str(tmp_path / "file")]) == 2
    caught = capsys.readouterr().err
    assert "is a file, not a folder" in caught
    assert caught.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing from attentune bench: {attention}"),
        (["atention"], "atention"),
        (["attention", "--core", "--masks", "window"], "--core is a choice of cells: leave out --masks, or --core"),
        (["attention", "--masks", "windw"], "windw"),
        (["attention", "--lengths", "0"], "--lengths: input should be greater than or equal to 1, got 0"),
        (["attention", "--rounds", "0"], "--rounds: "),
        (["attention", "--limit-seconds", "nan"], "--limit-seconds: "),
        (["attention", "--peers", "none", "naive"], "--peers none goes with no other peer"),
        (["attention", "--kernels", "spda"], "--kernels: spda is unknown; did you mean 'sdpa'?"),
        (["attention", "--masks", "full", "--passes", "decode"], "no cell is left: full, decode: left out"),
        (["attention", "--device", "cuda"], "--device cuda: PyTorch finds no CUDA device"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benching.torch.cuda, "is_available", lambda: False)
    assert main(["bench", *arguments]) == 2
    caught = capsys.readouterr().err
    assert caught.startswith("attentune: error: ")
    assert says in caught
    assert caught.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_is_listed() -> None:
    assert "bench" in cli.COMMANDS
    assert "bench" in cli.GOES_ON
