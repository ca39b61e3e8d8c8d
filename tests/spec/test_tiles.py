"""Tiles are exact for every mask, on every layout, and are found without looking at all pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.mechanisms import attention
from attentune.spec import tiles
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid, both, either, opposite
from attentune.spec.tiles import TileState, row_tiles, visible_tiles
from spec.drawing import masks, plain_masks

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
often = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
sizes = st.integers(1, 23)
sides = st.tuples(st.integers(1, 7), st.integers(1, 7))


def read(text: str) -> Mask:
    return attention(f"heads=1, mask={text}").mask


def states_of(seen: Tensor, tile: tuple[int, int]) -> list[list[int]]:
    """The states of the tiles of `seen` [Q K], one by one."""
    found = []
    for rows in seen.split(tile[0]):
        parts = rows.split(tile[1], dim=1)
        found.append([2 if bool(part.all()) else 1 if bool(part.any()) else 0 for part in parts])
    return found


def dense(mask: Mask, query: Positions, key: Positions) -> Tensor:
    seen = mask.visible(query.map(lambda t: t[:, None]), key.map(lambda t: t[None, :]))
    return seen.expand(len(query.index), len(key.index))


def line(length: int, start: int, prefix: int) -> Positions:
    index = torch.arange(start, start + length)
    return Positions(index, index, prefix=torch.full((length,), prefix))


@often
@given(masks, sizes, sizes, sides, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_tiles_are_what_the_predicate_says(
    mask: Mask, queries: int, keys: int, tile: tuple[int, int], offset: int, key_offset: int, prefix: int
) -> None:
    expected = states_of(dense(mask, line(queries, offset, prefix), line(keys, key_offset, prefix)), tile)
    found = visible_tiles(mask, queries, keys, tile=tile, offset=offset, key_offset=key_offset, prefix=prefix)
    assert found.dtype is torch.int8
    assert found.tolist() == expected


@often
@given(plain_masks, sizes, sides, st.integers(0, 9))
def test_what_a_mask_says_of_itself_is_exact(mask: Mask, length: int, tile: tuple[int, int], offset: int) -> None:
    query, key = line(length, offset, 3), line(length + offset, 0, 3)
    said = mask.tiles(TileGrid(query, key, tile))
    expected = torch.tensor(states_of(dense(mask, query, key), tile))
    known = said != TileState.UNDECIDED
    assert torch.equal(said[known].long(), expected[known])


@often
@given(masks, st.lists(st.integers(-1, 2), min_size=1, max_size=25), sides, st.integers(0, 9))
def test_tiles_of_packed_and_padded_rows(mask: Mask, documents: list[int], tile: tuple[int, int], prefix: int) -> None:
    ids = torch.tensor([documents])
    for layout in (Layout.packed(ids), Layout.padded(ids >= 0)):
        layout = layout.with_prefix(torch.tensor([prefix]))
        seen = layout.visible(mask).expand(1, 1, len(documents), len(documents))[0, 0]
        query, key = layout.query.map(lambda t: t[0]), layout.key.map(lambda t: t[0])
        assert row_tiles(mask, query, key, tile=tile).tolist() == states_of(seen, tile)


def test_small_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = read("causal & (window(5) | sink(3)) | predicate('squares (a test)')")
    whole = visible_tiles(mask, 23, 31, tile=(3, 4), offset=8)
    monkeypatch.setattr(tiles, "PAIRS", 7)
    assert torch.equal(visible_tiles(mask, 23, 31, tile=(3, 4), offset=8), whole)


def test_by_hand() -> None:
    assert visible_tiles(read("causal"), 5, 5, tile=(2, 2)).tolist() == [[1, 0, 0], [2, 1, 0], [2, 2, 2]]
    assert visible_tiles(read("window(2)"), 4, 4, tile=(2, 2)).tolist() == [[1, 0], [1, 1]]
    assert visible_tiles(read("causal"), 1, 6, tile=(1, 3), offset=3).tolist() == [[2, 1]]
    assert visible_tiles(read("causal & ~causal"), 3, 3, tile=(2, 2)).tolist() == [[0, 0], [0, 0]]
    assert visible_tiles(read("causal | ~causal"), 3, 3, tile=(2, 2)).tolist() == [[2, 2], [2, 2]]
    assert visible_tiles(read("full"), 0, 3, tile=(2, 2)).shape == (0, 2)


LONG = [  # and how many pairs may be looked at: a row has 10^10 of them
    ("causal", 0),
    ("causal & ~window(1000)", 0),
    ("window(4097, symmetric=true)", 0),
    ("dilated(512, 8)", 0),
    ("strided(128)", 0),
    ("sink(4)", 0),
    ("global_tokens(positions=(0, 70000))", 0),
    ("random_blocks(3)", 0),
    ("causal & (window(4096) | sink(4))", 500 * 256**2),
    ("causal & (window(4096) | global_tokens(2) | random_blocks(3, block=256))", 1200 * 256**2),
    ("strided_fixed(128, 8)", 1000 * 256**2),
    ("tree((-1, 0, 0, 1), start=99990)", 1600 * 256**2),
]


@pytest.mark.parametrize(("text", "allowed"), LONG)
def test_long_rows_need_no_square(text: str, allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    ask = Mask.joins

    def counted(mask: Mask, query: Positions, key: Positions) -> Tensor:
        nonlocal looked
        seen = ask(mask, query, key)
        looked += seen.numel()
        assert seen.numel() <= tiles.PAIRS
        return seen

    monkeypatch.setattr(Mask, "joins", counted)
    found = visible_tiles(read(text), 100_000, 100_000, tile=(256, 256))
    assert found.shape == (391, 391)
    assert int(found.max()) <= TileState.WHOLLY
    assert looked <= allowed


def test_states_combine_as_truth_does() -> None:
    hidden, partly, wholly, undecided = (torch.tensor([state], dtype=torch.int8) for state in TileState)
    assert int(both(wholly, partly)) == TileState.PARTLY
    assert int(both(partly, partly)) == TileState.UNDECIDED  # they may show different halves
    assert int(both(undecided, hidden)) == TileState.HIDDEN
    assert int(both(undecided, wholly)) == TileState.UNDECIDED
    assert int(either(undecided, wholly)) == TileState.WHOLLY
    assert int(either(hidden, partly)) == TileState.PARTLY
    assert int(either(partly, partly)) == TileState.UNDECIDED
    assert [int(opposite(one)) for one in (hidden, partly, wholly, undecided)] == [2, 1, 0, 3]


@often
@given(masks, st.integers(1, 30))
def test_no_mask_shows_later_keys_than_it_says(mask: Mask, length: int) -> None:
    seen = dense(mask, line(length, 0, 4), line(length, 0, 4))
    later = torch.ones_like(seen).triu(1)
    if mask.lookahead is not None:
        assert not bool((seen & later)[:, mask.lookahead :].any())


def test_lookahead_sees_through_composition() -> None:
    for text in ("~(~causal | sink(2))", "causal & window(3, symmetric=true)", "~(~window(3) | ~sink(4)) & causal"):
        assert read(text).lookahead == 0
    assert read("window(2) | ~(~sink(2) | ~window(3, symmetric=true))").lookahead == 2
    assert read("window(2) | ~sink(2)").lookahead is None


def test_tiles_that_cannot_be() -> None:
    with pytest.raises(SpecError, match=r"at least one query and one key, got \(0, 2\)"):
        visible_tiles(read("causal"), 3, 3, tile=(0, 2))
    with pytest.raises(SpecError, match="no negative places"):
        visible_tiles(read("causal"), 3, 3, tile=(1, 2), offset=-1)
    with pytest.raises(SpecError, match="how long each row's prefix is"):
        visible_tiles(read("prefix"), 3, 3, tile=(1, 2))
