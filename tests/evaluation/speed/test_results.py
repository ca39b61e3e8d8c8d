"""What follows from figures: ratios, findings, table and picture; and the files of a run that is taken up again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attentune.errors import StorageError, StudyError
from attentune.evaluation.speed import run
from attentune.evaluation.speed.findings import findings
from attentune.evaluation.speed.grid import Case, Cell, Setting
from attentune.evaluation.speed.measurement import rounds_for
from attentune.evaluation.speed.picture import as_png
from attentune.evaluation.speed.results import CellResult, Entry, Machine, Results, keep, kept
from attentune.evaluation.speed.table import as_markdown

MIB = 2**20
MACHINE = Machine("A processor", 2, 24.0, "", (("torch", "2.13.0"),))
PICK = "attentune blocked"


def entry(name: str, *seconds: float, peak: int = MIB) -> Entry:
    return Entry(name, name.startswith("attentune"), "measured", seconds=seconds, error=1e-7, peak_bytes=peak)


def result(cell: Cell, *entries: Entry, pick: str = PICK) -> CellResult:
    return CellResult(cell, entries, pairs=1000, operations=256e3, matrix_rate=1e9, pick=pick)


def results(*cells: CellResult) -> Results:
    return Results(MACHINE, Setting(threads=2), cells)


def test_ratios_by_hand() -> None:
    one = result(
        Cell("window", "none", 8192, "forward"),
        entry(PICK, 0.004, 0.002, 0.003),
        entry("attentune sdpa", 0.0028),
        entry("flex", 0.009, 0.006, 0.005),
        Entry("naive", False, "skipped", "needs 99.0 GiB"),
    )
    assert one.speedup == pytest.approx(2.0)
    assert one.speedup_of_least == pytest.approx(2.5)
    assert one.picked is not None
    assert one.useful_share(one.picked) == pytest.approx(256e3 / 0.003 / 1e9)
    assert one.pick_is_good  # 7 % above the best
    assert CellResult.of_data(json.loads(json.dumps(one.as_data()))) == one


def test_who_is_far_behind_is_not_called_again() -> None:
    assert run.far_behind({"a": 0.1, "b": 3.9, "c": 4.1, "d": 30.0}) == ["c", "d"]
    assert run.far_behind({"a": 7.0, "b": 11.0, "c": 22.0}) == ["c"]
    assert run.far_behind({}) == []


def test_findings_by_hand() -> None:
    window = Cell("window", "none", 8192, "forward")
    found = findings(
        results(
            result(window, entry(PICK, 0.002), entry("flex", 0.008)),
            result(Cell("packed", "none", 8192, "forward"), entry(PICK, 0.002), entry("flex", 0.002)),
            result(Cell("full", "none", 8192, "forward"), entry(PICK, 0.002), entry("flex", 9.0)),  # not local
            result(Cell("window", "none", 8192, "statistics"), entry(PICK, 0.003)),
            result(Cell("window", "none", 8192, "forward+backward"), entry(PICK, 1.0, peak=2 * MIB)),
            result(Cell("window", "none", 16384, "forward+backward"), entry(PICK, 2.0, peak=5 * MIB)),
            result(
                Cell("causal", "none", 512, "forward"),
                entry("attentune sdpa", 110e-6),
                entry("sdpa", 100e-6),
                pick="attentune sdpa",
            ),
            result(Cell("causal", "alibi", 512, "forward"), entry(PICK, 0.003), entry("attentune flex", 0.001)),
        )
    )
    text = "\n".join(found)
    assert "8192 tokens, forward, float32: 2.00x the best peer, the geometric mean of 2 " in text
    assert "(from 1.00x to 4.00x)" in text
    assert "causal-none-512-forward-float32: attentune sdpa runs the kernel of sdpa: 0.91x, +10 µs a call" in text
    assert "window-none-8192-forward+backward-float32: 2.50x the peak memory at twice the length" in text
    assert "window-none-8192-statistics-float32: 1.50x the time of the output alone" in text
    assert "auto: 7 of 8 picks are within 10 %" in text
    assert "causal-alibi-512-forward-float32: auto picks attentune blocked, 3.00x the time of attentune flex" in text


def test_the_table_shows_ratios_every_figure_and_why_others_have_none() -> None:
    refused = Entry("sdpa", False, "refused", "its flag says causal or nothing")
    cells = [
        result(Cell("window", "none", length, "forward"), entry(PICK, 0.002), entry("flex", 0.005), refused)
        for length in (512, 2048, 8192, 32768)
    ]
    whole = as_markdown(results(*cells))
    assert "A processor, 2 cores, 24 GiB, torch 2.13.0" in whole
    assert "| window | none | 8,192 | float32 | blocked | **2.50** (2.50) | 2 | 12.8% | 1.0 | flex | 5 | 1.0 |" in whole
    assert "| window-none-512-forward-float32 | **attentune blocked** | 2 | 2 | 1.00 |" in whole
    assert "- sdpa: refused: its flag says causal or nothing (4 cells)" in whole
    short = as_markdown(results(*cells), full=False)
    assert "Every figure" not in short
    assert "**2.50**" in short
    for line in whole.splitlines():
        if line.startswith("|"):
            assert line.count("|") in (10, 13)


def test_the_picture_is_drawn_where_there_is_anything_to_draw() -> None:
    cell = Cell("window", "alibi", 8192, "forward")
    drawn = as_png(results(result(cell, entry(PICK, 0.002), entry("flex", 0.005))))
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")
    assert as_png(results(result(cell, entry("flex", 0.005)))) is None


def test_rounds_fit_the_budget() -> None:
    assert rounds_for(0.001, 7) == 7
    assert rounds_for(1.4, 7) == 2
    assert rounds_for(20.0, 7) == 1


def test_cells_are_kept_and_damaged_ones_are_measured_again(tmp_path: Path) -> None:
    cell = Cell("window", "none", 64, "forward+backward")
    one = result(cell, entry(PICK, 0.002))
    assert kept(tmp_path, cell) is None
    keep(tmp_path, one)
    assert kept(tmp_path, cell) == one
    (file,) = (tmp_path / "cells").iterdir()
    file.write_text(file.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    assert kept(tmp_path, cell) is None
    file.write_text("[]", encoding="utf-8")
    assert kept(tmp_path, cell) is None


def test_a_run_is_taken_up_again_and_other_settings_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[Cell] = []

    def measure_cell(case: Case, cache: str, tell: object) -> CellResult:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(case.cell)
        return result(case.cell, entry(PICK, 0.002))

    monkeypatch.setattr(run, "measure_cell", measure_cell)
    cells = [Cell("causal", "none", length, "forward") for length in (4, 8, 16)]
    setting = Setting(threads=2)
    with pytest.raises(KeyboardInterrupt):
        run.measure(cells, setting, folder=tmp_path)
    assert measured == cells[:2]
    measured.clear()
    whole = run.measure(cells, setting, folder=tmp_path)
    assert measured == cells[2:]
    assert [one.cell for one in whole.cells] == cells
    with pytest.raises(StudyError, match=r"measured with rounds 7 \(now 3\): name another --out"):
        run.measure(cells, setting.replace(rounds=3), folder=tmp_path)
    (tmp_path / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(StudyError, match=r"settings.json cannot be read"):
        run.measure(cells, setting, folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        run.measure([Cell("causal", "none", 4, "forward")], Setting(), folder=blocked)


def test_what_is_predicted_to_be_too_much_is_never_started() -> None:
    case = Case(Cell("causal", "alibi", 32768, "forward"), Setting(peers=("naive",), limit_gib=0.5))
    found, seconds = run._tried(run.contestants(case)[-1], case, "")
    assert (found.name, found.status, seconds) == ("naive", "skipped", None)
    assert found.note.startswith("needs ")
