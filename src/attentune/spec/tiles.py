"""Which tiles of queries and keys a mask hides, shows in part, or shows whole: exact, for every mask.

What a mask knows of itself decides nearly all tiles at once (`Mask.tiles`); the predicate is asked pair by pair on
those alone that stay undecided, some at a time. Memory grows with the number of tiles, never with queries times keys.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from attentune.errors import SpecError
from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileGrid, TileState, both

__all__ = ["TileState", "known_states", "row_tiles", "visible_tiles"]

PAIRS = 1 << 20  # pairs of query and key, or tiles, that are looked at together


def visible_tiles(
    mask: Mask,
    queries: int,
    keys: int,
    *,
    tile: tuple[int, int],
    offset: int = 0,
    key_offset: int = 0,
    prefix: int | None = None,
    device: torch.device | str | None = None,
) -> Int[Tensor, "Qt Kt"]:
    """The `TileState` of every tile, int8, for one document at consecutive positions.

    Queries stand at offset ... offset + queries - 1, as behind a cache of `offset` keys, and keys at key_offset and on.
    `tile` is (queries, keys) of a tile; the last ones may be shorter, and what lies past the end does not count.
    `prefix` is the length that a prefix mask without one of its own needs. For documents and padding: `row_tiles`.
    """
    if min(queries, keys, offset, key_offset) < 0:
        raise SpecError(f"a row has no negative places: queries={queries}, keys={keys}, {offset=}, {key_offset=}")
    query = Positions.arange(queries, start=offset, device=device).row(0)
    key = Positions.arange(keys, start=key_offset, device=device).row(0)
    if prefix is not None:
        query, key = (replace(p, prefix=torch.full_like(p.index, prefix)) for p in (query, key))
    return row_tiles(mask, query, key, tile=tile)


def row_tiles(mask: Mask, query: Positions, key: Positions, *, tile: tuple[int, int]) -> Int[Tensor, "Qt Kt"]:
    """The `TileState` of every tile, int8, for one row of a layout: positions [Q] and [K], packed and padded ones too.

    A pair counts as visible where the mask shows it, both are of one document (where both sides tell documents apart)
    and neither is padding: `Mask.joins`. For cross-attention leave the documents out.
    """
    if min(tile) < 1:
        raise SpecError(f"a tile holds at least one query and one key, got {tile}")
    grid = TileGrid(query, key, tile)
    if 0 in grid.shape:
        return grid.undecided()
    rows = max(PAIRS // grid.shape[1], 1) * tile[0]
    bands = [
        TileGrid(query.map(lambda tensor, at=start: tensor[at : at + rows]), key, tile)  # type: ignore[misc]
        for start in range(0, len(query.index), rows)
    ]
    return torch.cat([_decided(mask, band) for band in bands])


def known_states(mask: Mask, grid: TileGrid) -> Int[Tensor, "Qt Kt"]:
    """What is known without looking at pairs, of the mask and of the documents and padding of the grid's positions."""
    known = [mask.tiles(grid), grid.by_document()]
    if grid.query.valid is not None:
        known.append(grid.by_query(lambda query, key: _there(query)))
    if grid.key.valid is not None:
        known.append(grid.by_key(lambda query, key: _there(key)))
    return both(*known)


def _decided(mask: Mask, grid: TileGrid) -> Int[Tensor, "Qt Kt"]:
    states = known_states(mask, grid)
    a, b = grid.tile
    for tiles in (states == TileState.UNDECIDED).nonzero().split(max(PAIRS // (a * b), 1)):
        of_query, query = _tokens(grid.query, tiles[:, 0], a)
        of_key, key = _tokens(grid.key, tiles[:, 1], b)
        exists = of_query[:, :, None] & of_key[:, None, :]
        seen = mask.joins(query.map(lambda t: t[:, :, None]), key.map(lambda t: t[:, None, :])).expand(exists.shape)
        some, every = (seen & exists).flatten(1).any(1), (seen | ~exists).flatten(1).all(1)
        states[tiles[:, 0], tiles[:, 1]] = some.to(torch.int8) + every.to(torch.int8)
    return states


def _tokens(row: Positions, tiles: Int[Tensor, "N"], size: int) -> tuple[Bool[Tensor, "N S"], Positions]:
    """Which places of these tiles there are, and the positions there; a place past the end repeats the last."""
    place = tiles[:, None] * size + torch.arange(size, device=tiles.device)
    length = len(row.index)
    return place < length, row.map(lambda tensor: tensor[place.clamp(max=length - 1)])


def _there(side: Positions) -> Bool[Tensor, "..."]:
    assert side.valid is not None
    return side.valid
