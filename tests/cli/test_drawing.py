"""Masks as pictures: what is drawn is what the mask shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from attentune.cli import drawing, main
from attentune.cli.drawing import CELLS, LABEL, Drawing, as_data, as_text, drawings, read, save
from attentune.mechanisms import predicate, registry
from kernels.attending import grid

CAUSAL = """\
mask=causal
  shows no later key

      0  key
    0 ██· · · ·
      ████· · ·
      ██████· ·
      ████████·
    4 ██████████
query
  ██ visible  · hidden
  tiles of 2 x 2: 4 wholly visible, 2 partly, 3 hidden
"""


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def cells(text: str) -> list[str]:
    """The rows of a picture, a letter for each cell: what stands between the ruler and the word query."""
    letters = dict(zip(CELLS.values(), ".-x", strict=True))
    lines = text.splitlines()
    rows = [line[LABEL:] for line in lines[4 : lines.index("query")]]
    return ["".join(letters[row[at : at + 2].ljust(2)] for at in range(0, len(row), 2)) for row in rows]


def test_a_picture_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mechanisms", "--draw", "causal", "--length", "5", "--tile", "2"]) == 0
    assert capsys.readouterr().out == CAUSAL


@pytest.mark.parametrize("text", ["causal & window(8) | sink(2)", "tree((-1, 0, 0, 1))", "random_blocks(2, block=3)"])
def test_every_pair_is_drawn_as_the_mask_says(text: str) -> None:
    assert cells(as_text(Drawing(read(text), 19, 4))) == grid(text, 19)


def test_a_long_mask_is_condensed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")  # room for 12 cells
    shown = as_text(Drawing(read("causal & window(9)"), 36, 8))
    assert "a cell is 3 queries x 3 keys" in shown
    assert cells(shown)[:5] == ["-...........", "x-..........", "xx-.........", "-xx-........", ".-xx-......."]


def test_what_is_said_of_later_keys() -> None:
    assert "\n  shows no later key\n" in as_text(Drawing(read("window(3)"), 4, 2))
    assert "\n  shows the first 2 keys to everyone, no other later key\n" in as_text(Drawing(read("sink(2)"), 4, 2))
    assert "\n  may show later keys: " in as_text(Drawing(read("window(3, symmetric=true)"), 4, 2))


@predicate.register("drawn (a test)")
def drawn(query: Tensor, key: Tensor) -> Tensor:
    return query == key


def test_all_masks_are_drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(drawing, "registered", lambda: {"drawn (a test)": drawn})
    found, without = drawings("all", 12, 4)
    assert without == []
    text = " ".join(as_text(one) for one in found)
    assert "mask=predicate('drawn (a test)')" in text
    assert not [kind for kind in registry.kinds("mask") if kind not in ("and", "or", "not") and kind not in text]
    monkeypatch.setattr(drawing, "registered", dict)
    assert drawings("all", 12, 4)[1] == ["predicate"]
    assert main(["mechanisms", "--draw", "all", "--length", "8"]) == 0
    assert capsys.readouterr().err == "no example of predicate: draw it with options of your own\n"


def test_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mechanisms", "--draw", "causal", "--length", "3", "--tile", "2", "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert data == {
        "mask": "causal",
        "length": 3,
        "lookahead": 0,
        "tile": 2,
        "tiles": [["partly", "hidden"], ["wholly", "wholly"]],
    }
    assert as_data(Drawing(read("causal"), 3, 2)) == data


def test_a_png_shows_the_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mask.png"
    assert main(["mechanisms", "--draw", "causal & window(4)", "--length", "8", "--tile", "8", "--out", str(file)]) == 0
    assert capsys.readouterr().out == f"wrote {file}\n"
    dark = (np.asarray(Image.open(file).convert("RGB")) == (0x1F, 0x4E, 0x79)).all(-1)
    dark[-90:] = False  # the legend
    rows, columns = np.nonzero(dark)
    left, top, side = columns.min(), rows.min(), (columns.max() + 1 - columns.min()) / 8
    middle = ((np.arange(8) + 0.5) * side).astype(int)
    shown = dark[np.ix_(top + middle, left + middle)]
    assert ["".join("x" if one else "." for one in row) for row in shown.tolist()] == grid("window(4)", 8)


def test_an_svg_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "masks.SVG"
    assert main(["mechanisms", "--draw", "strided(6)", "--length", "600", "--out", str(file)]) == 0
    text = file.read_text()
    for said in ("strided(6)", ">key<", ">query<", ">in part<", "8 x 8 tile"):
        assert said in text, said


def test_one_page_holds_many_masks(tmp_path: Path) -> None:
    file = tmp_path / "masks.svg"
    save([Drawing(read(text), 9, 4) for text in ("causal", "window(2)", "sink(1)", "full", "strided(3)")], file)
    text = file.read_text()
    assert all(said in text for said in ("causal", "window(2)", "sink(1)", "full", "strided(3)"))
    assert text.count(">key<") == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--draw", "windo(4)"], "mask=windo is unknown; did you mean 'window'"),
        (["--draw", "causal, heads=3"], "unknown slot 'heads'"),
        (["--draw", "none"], "expected a mask such as causal & window(8), got 'none'"),
        (["--draw", "causal | prefix"], "prefix without a length needs a layout"),
        (["--draw", "causal", "--out", "mask.jpg"], "--out mask.jpg: a picture ends in .png or .svg"),
        (["--draw", "causal", "--out", "absent/mask.png"], "absent/mask.png: cannot be written: No such file"),
        (["--draw", "causal", "--length", "0"], "--length: "),
        (["--draw", "causal", "window"], "--draw shows a mask and nothing else; leave out names"),
        (["--draw", "causal", "--schema", "run"], "--draw shows a mask and nothing else"),
        (["--length", "5"], "--length belongs to a drawing: say which mask with --draw"),
        (["--out", "mask.png"], "--out belongs to a drawing"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["mechanisms", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"attentune: error: {says}")
    assert error.count("\n") == 1


def test_masks_of_others_are_drawn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "EXAMPLES", {})
    found, without = drawings("all", 9, 3)
    texts = [as_text(one).splitlines()[0] for one in found]
    assert {"mask=causal", "mask=dilated(3, 3)", "mask=sink(3)"} <= set(texts)
    assert {"tree", "global_tokens"} <= set(without)  # they need what no one can guess


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--length", "100000"], "--length: input should be less than or equal to 4096, got 100000"),
        (["--length", "4096", "--tile", "7", "--json"], "512 x 512 at most: give a --tile of at least 8"),
    ],
)
def test_what_cannot_be_read_is_not_drawn(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["mechanisms", "--draw", "causal", *arguments]) == 2
    caught = capsys.readouterr()
    assert says in caught.err
    assert caught.out == ""
