from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.block_window import BlockWindow
from attentune.mechanisms.window import Window
from kernels.attending import attend, grid, operands, sizes


def test_the_own_block_and_its_neighbours_by_hand() -> None:
    assert grid("block_window(3, 2)", 7) == [
        "xxxx...",
        "xxxx...",
        "xxxxxx.",
        "xxxxxx.",
        "..xxxxx",
        "..xxxxx",
        "....xxx",
    ]


def test_blocks_of_one_token_are_the_symmetric_window() -> None:
    assert grid(BlockWindow(window=5, block=1), 11) == grid(Window(window=5, symmetric=True), 11)


def test_one_block_is_itself_alone() -> None:
    assert grid("block_window(1, 3)", 5) == ["xxx..", "xxx..", "xxx..", "...xx", "...xx"]


def test_with_causal_no_later_key_is_shown() -> None:
    assert grid("causal & block_window(3, 2)", 5) == ["x....", "xx...", "xxx..", "xxxx.", "..xxx"]
    assert attention("heads=2, mask=causal & block_window(3, 2)").mask.lookahead == 0
    assert BlockWindow(window=1, block=2).lookahead is None
    assert BlockWindow(window=1, block=1).lookahead == 0


def test_enough_blocks_are_full_attention() -> None:
    spec = attention("heads=2, mask=block_window(9, 3)")
    q, k, v = operands(sizes(spec), 13)
    assert torch.equal(attend(spec, q, k, v).output, attend(attention("heads=2"), q, k, v).output)


def test_even_windows_are_refused() -> None:
    with pytest.raises(SpecError, match=r"block_window: window counts .* it must be odd, got 4"):
        attention("heads=2, mask=block_window(4, 64)")
