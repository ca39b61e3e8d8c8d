"""Which tiles of 64 queries x 64 keys a layout lets a mask show, and what is seen inside those shown in part.

It is all that a tiled kernel needs to know of mask, documents and padding. Tiles that show nothing do not appear;
tiles shown in part name one of the distinct patterns of 64 x 64 bits, of which most masks have a handful. Memory grows
with the number of visible tiles: linearly in length for windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from attentune.kernels.layout import Layout, LayoutKind
from attentune.shapes import Int, Tensor
from attentune.spec.masks import Depends, Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid, TileState
from attentune.spec.tiles import PAIRS, known_states

SIZE = 64  # queries and keys of a tile: a row of a pattern is one word
WHOLLY = -1  # stands where a pattern's number stands
DENSE_PAIRS = 1 << 17  # so few pairs of query and key are looked at one by one: faster than deciding tiles
SHORT_PAIRS = 1 << 22  # of a batch of rows that fit one tile, which are looked at together
EVERY, NOTHING = b"\xff" * (8 * SIZE), bytes(8 * SIZE)
STEPS = 1024  # of decoding whose tables are kept: some kilobytes each
TABLES = 32  # plain layouts are made anew for each step of training; so many of their tables are kept

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class TileTable:
    """The visible tiles of `rows` rows of a layout (1 where all rows are alike), by query tile and by key tile.

    The tiles of query tile i of row r stand at start[r, i] ... start[r, i + 1] - 1 of `key_tile` (ascending) and
    `pattern`; those of key tile j at key_start[r, j] ... of `query_tile` and `key_pattern`. A pattern of -1 means
    wholly visible, another is a row of `patterns`: bit j of word i is set where query i of the tile sees its key j.
    Tiles with places past the end of either side always have a pattern, in which nothing is visible there.
    Distances (position of the query minus that of the key) inside these tiles lie between `first` and `last`.
    """

    queries: int
    keys: int
    start: Int[Tensor, "rows query_tiles_and_1"]
    key_tile: Int[Tensor, "tiles"]
    pattern: Int[Tensor, "tiles"]
    key_start: Int[Tensor, "rows key_tiles_and_1"]
    query_tile: Int[Tensor, "tiles"]
    key_pattern: Int[Tensor, "tiles"]
    patterns: Int[Tensor, "distinct 64"]
    first: int
    last: int

    @property
    def rows(self) -> int:
        """1, or the rows of the batch."""
        return self.start.shape[0]

    def visible_count(self) -> Int[Tensor, "rows Q"]:
        """How many keys each query sees."""
        start, pattern = self.start.numpy().astype(np.int64), self.pattern.numpy()
        bits = np.unpackbits(self.patterns.numpy().view(np.uint8), axis=1).reshape(-1, SIZE, 64).sum(2, dtype=np.int64)
        upto = np.concatenate([[0], np.cumsum(pattern == WHOLLY)])
        count = np.repeat((upto[start[:, 1:]] - upto[start[:, :-1]])[..., None] * SIZE, SIZE, 2)
        partly = np.nonzero(pattern != WHOLLY)[0]
        # Absolute starts ascend over all rows, so that one search finds the query tile of each entry.
        edges = np.concatenate([start[:, :-1].reshape(-1), [len(pattern)]])
        owner = np.searchsorted(edges, partly, side="right") - 1
        np.add.at(count.reshape(-1, SIZE), owner, bits[pattern[partly]])
        return torch.from_numpy(count.reshape(self.rows, -1)[:, : self.queries])


def tile_table(layout: Layout, mask: Mask) -> TileTable:
    """The table of `mask` over `layout`, on the CPU; made once for a layout, once for all plain ones of a length."""
    query, key = layout.query, layout.key
    length, keys = query.index.shape[1], key.index.shape[1]
    if layout.kind is LayoutKind.PLAIN and query is key and query.position is query.index and _bare(query):
        return _consecutive(mask, length, keys, 0)
    return layout.once(("tile table", mask), lambda: _of_layout(layout, mask))  # type: ignore[no-any-return]


def _of_layout(layout: Layout, mask: Mask) -> TileTable:
    query, key = (side.map(lambda tensor: tensor.cpu()) for side in (layout.query, layout.key))
    if layout.kind is LayoutKind.CROSS:
        query, key = replace(query, document=None), replace(key, document=None)
    queries, keys = query.index.shape[1], key.index.shape[1]
    if layout.kind is LayoutKind.CACHED and keys >= queries and _bare(query) and _bare(key):
        offset = keys - queries
        consecutive = torch.arange(keys)[None]
        if torch.equal(key.position, consecutive) and torch.equal(query.position, consecutive[:, offset:]):
            return _newest(mask, keys) if queries == 1 else _consecutive(mask, queries, keys, offset)
    return build(mask, query, key)


def _bare(side: Positions) -> bool:
    """Whether one unpadded document without a prefix stands for all rows."""
    return side.index.shape[0] == 1 and side.document is None and side.prefix is None and side.valid is None


@lru_cache(maxsize=TABLES)
def _consecutive(mask: Mask, queries: int, keys: int, offset: int) -> TileTable:
    with torch.inference_mode(False), torch.device("cpu"):  # what is kept must serve training too
        query, key = Positions.arange(queries, start=offset), Positions.arange(keys)
        if mask.depends is Depends.DIFFERENCE and queries * keys > DENSE_PAIRS:
            return _of_differences(mask, query, key, offset)
        return build(mask, query, key)


@lru_cache(maxsize=STEPS)
def _newest(mask: Mask, keys: int) -> TileTable:
    """Of the newest token behind a cache: every text that is decoded comes by the same lengths."""
    with torch.inference_mode(False), torch.device("cpu"):
        return build(mask, Positions.arange(1, start=keys - 1), Positions.arange(keys))


def build(mask: Mask, query: Positions, key: Positions) -> TileTable:
    """The table of queries [B or 1, Q] and keys [B or 1, K] on the CPU; for cross-attention leave the documents out."""
    queries, keys = query.index.shape[1], key.index.shape[1]
    rows = max(query.index.shape[0], key.index.shape[0])
    if not queries or not keys:
        none = np.empty(0, np.int64)
        return _table(query, key, rows, none, none, none, none, np.empty((0, SIZE), np.int64))
    patterns = _Patterns()
    if max(queries, keys) <= SIZE and rows * queries * keys <= SHORT_PAIRS:
        row_of, of = _short(mask, query, key, rows, patterns)
        return _table(query, key, rows, row_of, np.zeros_like(row_of), np.zeros_like(row_of), of, patterns.stacked())
    found = []
    for row in range(rows):
        one, other = query.row(row), key.row(row)
        if queries * keys <= DENSE_PAIRS:
            found.append(_looked_at(mask, one, other, patterns))
        else:
            found.append(_by_tiles(mask, one, other, patterns))
    row_of = np.repeat(np.arange(rows), [len(part[0]) for part in found])
    i, j, of = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _table(query, key, rows, row_of, i, j, of, patterns.stacked())


def _table(
    query: Positions, key: Positions, rows: int, row: Array, i: Array, j: Array, of: Array, patterns: Array
) -> TileTable:
    """The visible tiles (row, query tile, key tile), in that order, with their patterns, as a table."""
    queries, keys = query.index.shape[1], key.index.shape[1]
    query_tiles, key_tiles = -(-queries // SIZE), -(-keys // SIZE)
    by_key = np.argsort(row * key_tiles + j, kind="stable")
    least, most = _distances(query, key, row, i, j)
    return TileTable(
        queries,
        keys,
        _starts(row * query_tiles + i, rows, query_tiles),
        _int32(j),
        _int32(of),
        _starts(row * key_tiles + j, rows, key_tiles),
        _int32(i[by_key]),
        _int32(of[by_key]),
        torch.from_numpy(patterns),
        least,
        most,
    )


def _of_differences(mask: Mask, query: Positions, key: Positions, offset: int) -> TileTable:
    """Where all follows from i - j, tiles that lie equally far apart are alike: one of each is looked at."""
    queries, keys = query.index.shape[1], key.index.shape[1]
    query_tiles, key_tiles = -(-queries // SIZE), -(-keys // SIZE)
    furthest = (max(query_tiles, key_tiles) + 1) * SIZE + offset
    difference = torch.arange(furthest, -furthest - 1, -1)
    seen = mask.visible(Positions(*(difference.clamp(min=0),) * 2), Positions(*((-difference).clamp(min=0),) * 2))
    upto = np.concatenate([[0], np.cumsum(seen.expand(difference.shape).numpy())])
    apart = np.arange(query_tiles - 1, -key_tiles, -1)  # of two tiles: key tiles of one query tile then ascend
    begin = furthest - (apart * SIZE + offset + SIZE - 1)
    shown = upto[begin + 2 * SIZE - 1] - upto[begin]
    apart, shown = apart[shown > 0], shown[shown > 0]
    j = np.arange(query_tiles)[:, None] - apart
    i, which = np.nonzero((j >= 0) & (j < key_tiles))
    j = j[i, which]
    partly = (shown < 2 * SIZE - 1)[which] | ((i + 1) * SIZE > queries) | ((j + 1) * SIZE > keys)
    patterns, of, some = _Patterns(), np.full(len(i), WHOLLY, dtype=np.int64), np.ones(len(i), dtype=np.bool_)
    of[partly], some[partly] = _of_tiles(mask, query.row(0), key.row(0), i[partly], j[partly], patterns)
    i, j, of = i[some], j[some], of[some]  # what a short tile at an end would show may lie past the end
    return _table(query, key, 1, np.zeros_like(i), i, j, of, patterns.stacked())


class _Patterns:
    """Distinct patterns in the order in which they were met."""

    def __init__(self) -> None:
        self._number: dict[bytes, int] = {}

    def numbers(self, words: Array) -> Array:
        """The numbers of patterns [N, 64]."""
        if not len(words):
            return np.empty(0, np.int64)
        whole = np.ascontiguousarray(words).view(np.dtype((np.void, words.dtype.itemsize * SIZE)))[:, 0]
        distinct, of = np.unique(whole, return_inverse=True)
        number = [WHOLLY if (one := bits.tobytes()) == EVERY else self._of(one) for bits in distinct]
        return np.asarray(number, dtype=np.int64)[of.reshape(-1)]

    def _of(self, bits: bytes) -> int:
        return self._number.setdefault(bits, len(self._number)) if bits != NOTHING else WHOLLY

    def stacked(self) -> Array:
        """All patterns, int64 [P, 64]."""
        return np.frombuffer(b"".join(self._number), dtype=np.int64).reshape(-1, SIZE).copy()


def _by_tiles(mask: Mask, query: Positions, key: Positions, patterns: _Patterns) -> tuple[Array, Array, Array]:
    """Visible tiles of one row and their patterns, band by band of query tiles."""
    keys = len(key.index)
    rows = max(PAIRS // -(-keys // SIZE), 1) * SIZE
    found = []
    for start in range(0, len(query.index), rows):
        band = query.map(lambda tensor, at=start: tensor[at : at + rows])  # type: ignore[misc]
        states = known_states(mask, TileGrid(band, key, (SIZE, SIZE))).numpy()
        i, j = np.nonzero(states)
        unsure = (states[i, j] != TileState.WHOLLY) | ((i + 1) * SIZE > len(band.index)) | ((j + 1) * SIZE > keys)
        of, shown = np.full(len(i), WHOLLY, dtype=np.int64), np.ones(len(i), dtype=np.bool_)
        of[unsure], shown[unsure] = _of_tiles(mask, band, key, i[unsure], j[unsure], patterns)
        found.append((i[shown] + start // SIZE, j[shown], of[shown]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _looked_at(mask: Mask, query: Positions, key: Positions, patterns: _Patterns) -> tuple[Array, Array, Array]:
    """Visible tiles of one row and their patterns, from every pair."""
    queries, keys = len(query.index), len(key.index)
    seen = _seen(mask, query.map(lambda tensor: tensor[:, None]), key.map(lambda tensor: tensor[None, :]))
    packed = np.zeros((-(-queries // SIZE) * SIZE, -(-keys // SIZE) * 8), dtype=np.uint8)
    packed[:queries, : -(-keys // 8)] = np.packbits(seen, axis=1, bitorder="little")
    words = packed.view(np.int64).reshape(-1, SIZE, packed.shape[1] // 8).transpose(0, 2, 1)
    i, j = np.nonzero((words != 0).any(2))
    return i, j, patterns.numbers(words[i, j])


def _short(mask: Mask, query: Positions, key: Positions, rows: int, patterns: _Patterns) -> tuple[Array, Array]:
    """The rows that show anything, of rows that fit one tile, and their patterns: every pair is looked at, at once."""
    seen = _seen(mask, query.map(lambda tensor: tensor[:, :, None]), key.map(lambda tensor: tensor[:, None, :]))
    words = np.zeros((rows, SIZE, SIZE // 8), dtype=np.uint8)
    packed = np.packbits(seen, axis=2, bitorder="little")
    words[:, : packed.shape[1], : packed.shape[2]] = packed
    shown = words.view(np.int64)[..., 0]
    row = np.nonzero((shown != 0).any(1))[0]
    return row, patterns.numbers(shown[row])


def _of_tiles(
    mask: Mask, query: Positions, key: Positions, i: Array, j: Array, patterns: _Patterns
) -> tuple[Array, Array]:
    """The patterns of these tiles, and whether they show anything."""
    kind = np.arange(len(i))
    if mask.depends is Depends.DIFFERENCE:
        of_query, of_key = _uniform(query), _uniform(key)
        both = of_query[0][i] & of_key[0][j] & (of_query[2][i] == of_key[2][j])
        # Uniform tiles that lie equally far apart are alike; the others stand for themselves, as no difference does.
        kind = np.where(both, of_query[1][i] - of_key[1][j], kind + (1 << 40))
    _, alone, back = np.unique(kind, return_index=True, return_inverse=True)
    numbers, shown = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for start in range(0, len(alone), PAIRS // SIZE**2):
        some = alone[start : start + PAIRS // SIZE**2]
        there, of_query_ = _tokens(query, i[some])
        other, of_key_ = _tokens(key, j[some])
        seen = _seen(mask, of_query_.map(lambda t: t[:, :, None]), of_key_.map(lambda t: t[:, None, :]))
        if not (there.all() and other.all()):
            seen = seen & there[:, :, None] & other[:, None, :]
        words = np.packbits(seen, axis=2, bitorder="little").view(np.int64)[..., 0]
        numbers.append(patterns.numbers(words))
        shown.append((words != 0).any(1))
    return np.concatenate(numbers)[back.reshape(-1)], np.concatenate(shown)[back.reshape(-1)]


def _tokens(side: Positions, tile: Array) -> tuple[Array, Positions]:
    """Which places of these tiles there are, and the positions there; a place past the end repeats the last."""
    place, length = tile[:, None] * SIZE + np.arange(SIZE), len(side.index)
    taken = torch.from_numpy(np.minimum(place, length - 1))
    return place < length, side.map(lambda tensor: tensor[taken])


def _seen(mask: Mask, query: Positions, key: Positions) -> Array:
    """What the mask shows, and documents and padding leave; the rule of `Layout.visible`."""
    seen = mask.visible(query, key)
    if query.document is not None and key.document is not None:
        seen = seen & (query.document == key.document)
    for side in (query, key):
        seen = seen if side.valid is None else seen & side.valid
    shape = torch.broadcast_shapes(query.index.shape, key.index.shape)
    return np.asarray(seen.expand(shape).numpy())


def _uniform(side: Positions) -> tuple[Array, Array, Array]:
    """Whether each tile is full, of one document, unpadded and of consecutive positions; its first; its document."""
    length = len(side.index)

    def tiled(tensor: Tensor) -> Array:
        numbers = np.asarray(tensor.numpy())
        return np.concatenate([numbers, np.full(-length % SIZE, numbers[-1])]).reshape(-1, SIZE)

    position = tiled(side.position)
    alike = (np.diff(position, axis=1) == 1).all(1)
    alike[length // SIZE :] = False
    document = np.zeros_like(position) if side.document is None else tiled(side.document)
    alike &= (document == document[:, :1]).all(1)
    if side.valid is not None:
        alike &= tiled(side.valid).all(1)
    return alike, position[:, 0], document[:, 0]


def _distances(query: Positions, key: Positions, row: Array, i: Array, j: Array) -> tuple[int, int]:
    """The least and the greatest distance that occurs in these tiles."""
    if not len(i):
        return 0, 0
    least, most = _extremes(query.position.numpy())
    key_least, key_most = _extremes(key.position.numpy())
    of_query, of_key = row % len(least), row % len(key_least)
    first = (least[of_query, i] - key_most[of_key, j]).min()
    last = (most[of_query, i] - key_least[of_key, j]).max()
    return int(first), int(last)


def _extremes(position: Array) -> tuple[Array, Array]:
    edges = np.arange(0, position.shape[1], SIZE)
    return np.minimum.reduceat(position, edges, axis=1), np.maximum.reduceat(position, edges, axis=1)


def _starts(tile: Array, rows: int, tiles: int) -> Tensor:
    """Where the entries of each tile begin, and end, in a list that is sorted by (row, tile)."""
    upto = np.concatenate([[0], np.cumsum(np.bincount(tile, minlength=rows * tiles))])
    begins = upto[:-1].reshape(rows, tiles)
    ends = upto[np.arange(1, rows + 1) * tiles]
    return _int32(np.concatenate([begins, ends[:, None]], 1))


def _int32(numbers: Array) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int32))
