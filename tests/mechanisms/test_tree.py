from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.tree import Tree
from kernels.attending import attend, grid, operands, sizes


def test_a_node_sees_itself_and_its_ancestors() -> None:
    #      0
    #     / \
    #    1   2
    #    |
    #    3
    assert grid("tree(parents=(-1, 0, 0, 1))", 4) == ["x...", "xx..", "x.x.", "xx.x"]
    assert grid("tree((-1, -1, 0))", 3) == ["x..", ".x.", "x.x"]  # two roots
    assert Tree(parents=(-1, 0)).lookahead == 0


def test_the_text_before_is_causal_and_seen_by_all_nodes() -> None:
    assert grid("tree((-1, 0, 0), start=2)", 5) == ["x....", "xx...", "xxx..", "xxxx.", "xxx.x"]


def test_beyond_the_tree_nothing_is_seen() -> None:
    assert grid("tree((-1, 0))", 4) == ["x...", "xx..", "....", "...."]


def test_a_chain_is_causal() -> None:
    assert grid("tree((-1, 0, 1, 2))", 4) == grid("causal", 4)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20))
def test_against_following_the_parents(draws: list[int]) -> None:
    parents = tuple(draw % (node + 1) - 1 for node, draw in enumerate(draws))
    expected = []
    for node in range(len(parents)):
        line, at = ["."] * len(parents), node
        while at >= 0:
            line[at], at = "x", parents[at]
        expected.append("".join(line))
    assert grid(Tree(parents=parents), len(parents)) == expected


def test_each_branch_reads_as_if_it_were_alone() -> None:
    """Text of 3 tokens, then nodes A, B (after A), C (after A): C's output is that of the text, A, C."""
    spec = attention("heads=2, mask=tree((-1, 0, 0), start=3)")
    q, k, v = operands(sizes(spec), 6)
    together = attend(spec, q, k, v).output
    branch = [0, 1, 2, 3, 5]
    alone = attend("heads=2, mask=causal", q[:, :, branch], k[:, :, branch], v[:, :, branch]).output
    assert torch.allclose(together[:, :, branch], alone, atol=1e-14)


def test_what_is_no_tree() -> None:
    with pytest.raises(SpecError, match=r"tree.parents: a parent stands before its child, .* node 1 has 1"):
        Tree(parents=(-1, 1))
    with pytest.raises(SpecError, match="node 0 has -2"):
        Tree(parents=(-2,))
    with pytest.raises(SpecError, match="name the parent of each node"):
        Tree(parents=())
    with pytest.raises(SpecError, match="mask=tree has no meaning"):
        attention("heads=1, mask=tree((-1,))").check_cross()
