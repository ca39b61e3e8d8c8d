"""Cells: what they ask for, which of them mean anything, and how many pairs they show."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from attentune.cli import bench
from attentune.errors import SpecError
from attentune.evaluation.speed.grid import CORE, DTYPES, MASKS, PASSES, SCORES, Case, Cell, Setting, grid
from attentune.evaluation.speed.peers import PEERS
from attentune.evaluation.speed.problem import document_lengths, layout_of, pose, visible_pairs
from attentune.kernels import LayoutKind

SMALL = Setting(heads=2, head_width=4, window=33)


def test_the_command_offers_what_there_is() -> None:
    assert get_args(bench.Mask) == tuple(MASKS)
    assert get_args(bench.Score) == tuple(SCORES)
    assert get_args(bench.Pass) == PASSES
    assert get_args(bench.Dtype) == DTYPES
    assert get_args(bench.Peer) == (*PEERS, "none")


def test_the_core_is_24_different_cells_that_answer_the_targets() -> None:
    assert len(set(CORE)) == len(CORE) == 24
    held = {(cell.mask, cell.scores, cell.length, cell.pass_) for cell in CORE}
    assert {("window", "none", 8192, "forward"), ("window", "none", 32768, "forward")} <= held
    assert {("window", "none", length, "forward+backward") for length in (8192, 16384, 32768)} <= held
    assert {("causal", "none", length, "forward+backward") for length in (8192, 32768)} <= held
    assert {("window", "none", 8192, "statistics"), ("causal", "none", 8192, "decode")} <= held
    for cell in CORE:
        assert Case(cell, Setting()).spec  # every one of them is a spec


def test_masks_that_show_later_keys_are_not_decoded_and_that_is_told() -> None:
    cells, left_out = grid(masks=("full", "causal", "prefix"), scores=("none",), lengths=(8,))
    assert len(cells) == 3 * 4 - 1
    assert left_out == ("full, decode: left out, since its queries see later keys",)
    assert Cell("prefix", "none", 8, "decode") in cells


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("windw", "none", 8, "forward"), "no mask 'windw'; did you mean 'window'"),
        (("full", "nun", 8, "forward"), "no scores 'nun'; did you mean 'none'"),
        (("full", "none", 8, "backward"), "no pass 'backward'"),
        (("full", "none", 0, "forward"), "at least one token, got length=0"),
        (("full", "none", 8, "forward", "float23"), "no dtype 'float23'; did you mean"),
    ],
)
def test_what_there_is_not_is_refused(values: tuple[object, ...], says: str) -> None:
    with pytest.raises(SpecError, match=says.replace("?", r"\?")):
        Cell(*values)  # type: ignore[arg-type]


def test_a_cell_survives_as_data() -> None:
    cell = Cell("sinks", "alibi", 300, "forward+backward", "bfloat16")
    assert Cell.of(cell.as_data()) == cell
    assert cell.as_data()["pass"] == "forward+backward"


@pytest.mark.parametrize("pass_", ["forward", "decode"])
@pytest.mark.parametrize("mask", MASKS)
def test_pairs_are_counted_as_the_layout_shows_them(mask: str, pass_: str) -> None:
    case = Case(Cell(mask, "none", 200, pass_), SMALL)
    assert visible_pairs(case) == int(layout_of(case).visible(case.spec.mask).sum())


def test_pairs_by_hand() -> None:
    assert visible_pairs(Case(Cell("full", "none", 70, "forward"), SMALL)) == 70 * 70
    assert visible_pairs(Case(Cell("causal", "none", 70, "forward"), SMALL)) == 70 * 71 // 2
    assert visible_pairs(Case(Cell("window", "none", 70, "forward"), SMALL)) == 33 * 34 // 2 + 37 * 33
    assert visible_pairs(Case(Cell("window", "none", 70, "decode"), SMALL)) == 33
    assert visible_pairs(Case(Cell("sinks", "none", 70, "decode"), SMALL)) == 37


def test_documents_fill_the_row_and_stay_apart() -> None:
    assert sum(document_lengths(500)) == 500
    assert document_lengths(500) == document_lengths(500)
    assert len(document_lengths(8192)) > 4
    case = Case(Cell("packed", "none", 500, "forward"), SMALL)
    lengths = document_lengths(500)
    assert visible_pairs(case) == sum(length * (length + 1) // 2 for length in lengths)
    assert case.request.layout is LayoutKind.PACKED


def test_a_problem_is_the_same_every_time_and_asks_for_gradients_only_where_they_are_wanted() -> None:
    case = Case(Cell("causal", "t5", 12, "forward+backward"), SMALL)
    one, two = pose(case), pose(case)
    assert all(torch.equal(one.leaves[name], two.leaves[name]) for name in one.leaves)
    assert set(one.leaves) == {"q", "k", "v", "position.0.table"}
    assert all(leaf.requires_grad for leaf in one.leaves.values())
    decoding = pose(Case(Cell("causal", "none", 12, "decode"), SMALL))
    assert decoding.q.shape == (1, 2, 1, 4)
    assert decoding.k.shape == (1, 2, 12, 4)
    assert not decoding.q.requires_grad
    assert decoding.layout.query.position.tolist() == [[11]]
