"""What share of all query-key pairs a tiled kernel computes, predicted without any tensor of the call."""

from __future__ import annotations

from functools import lru_cache

import torch

from attentune.errors import SpecError
from attentune.kernels.kernel import Request
from attentune.kernels.layout import LayoutKind
from attentune.kernels.tile_table import SIZE
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions
from attentune.spec.tile_grid import TileState
from attentune.spec.tiles import row_tiles

SAMPLES = 8  # query tiles that are looked at


def visible_share(request: Request) -> float:
    """The share of tiles of 64 x 64 of which anything is visible, from a few query tiles of an unpadded row.

    Documents and padding hide more; how much is not known before the tokens are.
    """
    if request.layout is LayoutKind.CROSS or not request.query_length or not request.key_length:
        return 1.0
    offset = max(request.key_length - request.query_length, 0)
    return _share(request.spec.mask, request.query_length, request.key_length, offset)


@lru_cache(maxsize=256)
def _share(mask: Mask, queries: int, keys: int, offset: int) -> float:
    with torch.inference_mode(False), torch.device("cpu"):  # wherever the model is being built
        return _sampled(mask, queries, keys, offset)


def _sampled(mask: Mask, queries: int, keys: int, offset: int) -> float:
    key = Positions.arange(keys).row(0)
    tiles = -(-queries // SIZE)
    # The middles of equal parts: for causal masks their mean is that of all tiles.
    sampled = (
        sorted({int((part + 0.5) * tiles / SAMPLES) for part in range(SAMPLES)}) if tiles > SAMPLES else range(tiles)
    )
    seen = total = 0
    for tile in sampled:
        place = torch.arange(tile * SIZE, min(tile * SIZE + SIZE, queries)) + offset
        try:
            states = row_tiles(mask, Positions(place, place), key, tile=(SIZE, SIZE))
        except (SpecError, IndexError):  # a prefix that only the layout knows, a table of fewer positions
            return 0.6
        seen += int((states != TileState.HIDDEN).sum()) * len(place)
        total += states.shape[1] * len(place)
    return seen / max(total, 1)
