from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.random_blocks import RandomBlocks
from attentune.spec.positions import Positions
from kernels.attending import grid, places

GOLDEN = [[], [0], [0, 1], [0, 2], [2, 3], [1, 3], [2, 5], [4, 5]]


def chosen(mask: RandomBlocks, blocks: int) -> list[list[int]]:
    """For each block of queries the blocks of keys it sees, where each block is one token."""
    rows = grid(mask, blocks)
    return [[key for key, one in enumerate(row) if one == "x"] for row in rows]


def test_without_a_length_so_many_blocks_before_the_own() -> None:
    for seed in range(20):
        for block, seen in enumerate(chosen(RandomBlocks(count=3, block=1, seed=seed), 30)):
            assert len(seen) == min(3, block)
            assert all(key < block for key in seen)
    assert RandomBlocks(count=3).lookahead == 0


def test_with_a_length_so_many_of_all_blocks() -> None:
    mask = RandomBlocks(count=3, block=1, length=20)
    assert all(len(seen) == 3 and max(seen) < 20 for seen in chosen(mask, 30))
    assert any(max(seen) > block for block, seen in enumerate(chosen(mask, 20)))
    assert chosen(RandomBlocks(count=9, block=1, length=4), 6) == [[0, 1, 2, 3]] * 6
    assert RandomBlocks(count=3, block=8, length=20).lookahead == 24  # a block that has begun is shown whole


def test_whole_blocks_are_seen() -> None:
    blocks = chosen(RandomBlocks(count=2, block=1, seed=4), 5)
    expected = ["".join("xxx" if key in seen else "..." for key in range(5))[:13] for seen in blocks for _ in range(3)]
    assert grid("random_blocks(2, block=3, seed=4)", 13) == expected[:13]


def test_the_choice_is_fixed_for_good() -> None:
    """These numbers are part of what a checkpoint means; they may never change."""
    assert chosen(RandomBlocks(count=2, block=1), 8) == GOLDEN
    assert chosen(RandomBlocks(count=2, block=1, seed=1), 8) != GOLDEN


def test_the_choice_does_not_depend_on_the_length_of_the_row() -> None:
    mask = RandomBlocks(count=2, block=2, length=10)
    assert [row[:11] for row in grid(mask, 17)[:11]] == grid(mask, 11)
    late = mask.visible(Positions.arange(1, start=13).as_queries(), Positions.arange(17).as_keys())
    assert "".join("x" if one else "." for one in late.flatten().tolist()) == grid(mask, 17)[13]


def test_every_choice_is_equally_likely() -> None:
    """2 of 5 blocks: ten pairs, 1,000 seeds; 5 standard deviations of a count of 100 are 47."""
    query, key = places(5), places(*range(6))
    seen = [RandomBlocks(count=2, block=1, seed=seed).visible(query, key)[0].nonzero() for seed in range(1000)]
    counts = Counter(tuple(one.flatten().tolist()) for one in seen)
    assert counts.keys() == set(combinations(range(5), 2))
    assert all(abs(count - 100) < 47 for count in counts.values())


def test_blocks_choose_independently() -> None:
    mask = RandomBlocks(count=1, block=1, length=2)
    column = torch.tensor([seen[0] for seen in chosen(mask, 2000)])
    assert abs(float(column.double().mean()) - 0.5) < 0.06
    assert abs(float((column[1:] == column[:-1]).double().mean()) - 0.5) < 0.06


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match=r"random_blocks.count: .*got 0"):
        RandomBlocks(count=0)
    with pytest.raises(SpecError, match=r"random_blocks.seed: .*got -1"):
        RandomBlocks(count=1, seed=-1)
    with pytest.raises(SpecError, match="mask=random_blocks has no meaning"):
        attention("heads=1, mask=random_blocks(1)").check_cross()
