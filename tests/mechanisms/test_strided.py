from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms.strided import Strided
from kernels.attending import grid


def test_the_last_keys_and_every_stride_th() -> None:
    assert grid("strided(3)", 8) == [
        "x.......",
        "xx......",
        "xxx.....",
        "xxxx....",
        ".xxxx...",
        "..xxxx..",
        "x..xxxx.",
        ".x..xxxx",
    ]
    assert Strided(stride=3).lookahead == 0


def test_the_papers_two_parts() -> None:
    """A1 = {t, ..., i} with t = max(0, i - l), and A2 = {j: (i - j) mod l = 0}, as the paper writes them."""
    stride, length = 4, 15
    expected = []
    for i in range(length):
        first, second = range(max(0, i - stride), i + 1), [j for j in range(i + 1) if (i - j) % stride == 0]
        expected.append("".join("x" if j in {*first, *second} else "." for j in range(length)))
    assert grid("strided(4)", length) == expected


def test_two_layers_reach_every_earlier_key() -> None:
    seen = torch.tensor([[one == "x" for one in row] for row in grid("strided(5)", 25)]).double()
    assert torch.equal((seen @ seen) > 0, torch.ones(25, 25).tril() > 0)
    window = torch.tensor([[one == "x" for one in row] for row in grid("window(5)", 25)]).double()
    assert not torch.equal((window @ window) > 0, torch.ones(25, 25).tril() > 0)


def test_a_stride_of_one_is_causal() -> None:
    assert grid("strided(1)", 5) == grid("causal", 5)
    with pytest.raises(SpecError, match=r"strided.stride: .*got 0"):
        Strided(stride=0)
