from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attentune.kernels import Layout, LayoutKind
from attentune.kernels.tile_table import SIZE, TileTable, tile_table
from attentune.mechanisms import attention
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from kernels.stand_in import visible, visible_by_key

MASKS = [
    "full",
    "causal",
    "~causal",
    "causal & window(70)",
    "causal & (window(40) | sink(3))",
    "causal | prefix(30)",
    "causal & (window(20) | random_blocks(block=16, count=2))",
    "dilated(window=5, dilation=3)",
]


def mask(text: str) -> Mask:
    return attention(f"heads=1, mask={text}").mask


def check(table: TileTable, layout: Layout, shown: Mask) -> None:
    seen = layout.visible(shown)[:, 0].expand(-1, table.queries, table.keys)
    seen = seen.expand(max(table.rows, seen.shape[0]), -1, -1)
    drawn = visible(table).expand_as(seen)
    assert torch.equal(drawn, seen)
    assert torch.equal(visible_by_key(table).expand_as(seen), seen)
    assert torch.equal(table.visible_count().expand(seen.shape[:2]), seen.sum(-1))
    assert table.patterns.unique(dim=0).shape == table.patterns.shape
    distance = layout.query.position[:, :, None] - layout.key.position[:, None, :]
    distance = distance.expand(seen.shape)[seen]
    if len(distance):
        assert table.first <= int(distance.min())
        assert int(distance.max()) <= table.last
    for start, other in ((table.start, table.key_tile), (table.key_start, table.query_tile)):
        for a, b in zip(start.flatten()[:-1].tolist(), start.flatten()[1:].tolist(), strict=True):
            assert other[a:b].tolist() == sorted(set(other[a:b].tolist()))


def layouts(length: int) -> list[Layout]:
    index = torch.arange(length)
    ends = torch.stack([index >= length // 3, index < length - 5, index < 0])
    packed = torch.stack([index // 37, index // 200, torch.where(index < length // 2, 4, -1)])
    cached = Layout(LayoutKind.CACHED, Positions.arange(3, start=length - 3), Positions.arange(length))
    cross = Layout.cross(Layout.packed(packed).query, Positions.arange(90))
    return [Layout.plain(length), Layout.padded(ends), Layout.packed(packed), cached, cross]


@pytest.mark.parametrize("text", MASKS)
@pytest.mark.parametrize("length", [130, 448])
def test_the_table_shows_what_the_layout_shows(text: str, length: int) -> None:
    for layout in layouts(length):
        check(tile_table(layout, mask(text)), layout, mask(text))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 900),
    st.integers(0, 300),
    st.integers(1, 400),
    st.sampled_from(["causal & window({})", "~window({})", "causal", "window({}) | sink(2)"]),
)
def test_rows_behind_a_cache(queries: int, offset: int, window: int, text: str) -> None:
    keys = Positions.arange(queries + offset)
    layout = Layout(LayoutKind.CACHED, Positions.arange(queries, start=offset), keys)
    check(tile_table(layout, mask(text.format(window))), layout, mask(text.format(window)))


def test_by_hand() -> None:
    table = tile_table(Layout.plain(130), mask("causal & window(65)"))
    assert table.start.tolist() == [[0, 1, 3, 5]]
    assert table.key_tile.tolist() == [0, 0, 1, 1, 2]
    assert table.key_start.tolist() == [[0, 2, 4, 5]]
    assert table.query_tile.tolist() == [0, 1, 1, 2, 2]
    diagonal, before, _, _ = (table.pattern.tolist()[n] for n in (0, 1, 3, 4))
    assert table.pattern.tolist()[2] == diagonal
    words = [
        [sum(1 << j for j in range(i + 1)) for i in range(64)],
        [sum(1 << j for j in range(i, 64)) for i in range(64)],
    ]
    unsigned = [[word % (1 << 64) for word in pattern] for pattern in table.patterns.tolist()]
    assert unsigned[diagonal] == words[0]
    assert unsigned[before] == words[1]
    assert unsigned[table.pattern.tolist()[4]] == [1, 3] + [0] * 62
    assert (table.first, table.last) == (-63, 127)


def test_wholly_visible_tiles_have_no_pattern_and_ends_always_do() -> None:
    assert tile_table(Layout.plain(128), mask("full")).pattern.tolist() == [-1] * 4
    ends = tile_table(Layout.plain(100), mask("full"))
    assert ends.pattern.tolist()[0] == -1
    assert min(ends.pattern.tolist()[1:]) >= 0


@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (0, 5), (1, 1), (1, 0), (64, 64), (65, 1)])
def test_lengths_of_none_and_one(queries: int, keys: int) -> None:
    layout = Layout.cross(Positions.arange(queries), Positions.arange(keys))
    table = tile_table(layout, mask("full"))
    check(table, layout, mask("full"))
    assert table.start.shape == (1, -(-queries // SIZE) + 1)


def test_plain_layouts_of_one_length_share_a_table_and_others_do_not() -> None:
    shown = mask("causal & window(9)")
    assert tile_table(Layout.plain(200), shown) is tile_table(Layout.plain(200), shown)
    padded = Layout.padded(torch.ones(1, 200, dtype=torch.bool))
    assert tile_table(padded, shown) is tile_table(padded, shown)
    prefixed = Layout.plain(200).with_prefix(torch.tensor([4]))
    other = Layout.plain(200).with_prefix(torch.tensor([9]))
    one, two = (visible(tile_table(layout, mask("prefix"))) for layout in (prefixed, other))
    assert not torch.equal(one, two)


def test_memory_is_linear_for_windows() -> None:
    tiles = [len(tile_table(Layout.plain(length), mask("causal & window(256)")).key_tile) for length in (8192, 16384)]
    assert tiles[1] <= 2.05 * tiles[0]
    assert len(tile_table(Layout.plain(16384), mask("causal & window(256)")).patterns) == 2
