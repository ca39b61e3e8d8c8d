from __future__ import annotations

import pytest

from attentune.errors import SpecError
from attentune.mechanisms.strided_fixed import StridedFixed
from kernels.attending import grid


def test_the_own_block_and_the_last_key_of_each() -> None:
    assert grid("strided_fixed(3)", 7) == ["x......", "xx.....", "xxx....", "..xx...", "..xxx..", "..xxxx.", "..x..xx"]
    assert grid("strided_fixed(4, summary=2)", 9)[8] == "..xx..xxx"
    assert StridedFixed(stride=3).lookahead == 0


def test_the_papers_two_parts() -> None:
    """A1 = {j: floor(j / l) = floor(i / l)}, A2 = {j: j mod l in {t, ..., l}} with t = l - c, as in the paper."""
    stride, summary, length = 5, 2, 17
    expected = []
    for i in range(length):
        second = range(stride - summary, stride + 1)
        shown = [j <= i and (j // stride == i // stride or j % stride in second) for j in range(length)]
        expected.append("".join("x" if one else "." for one in shown))
    assert grid("strided_fixed(5, summary=2)", length) == expected


def test_a_summary_of_the_whole_block_is_causal() -> None:
    assert grid("strided_fixed(3, summary=3)", 8) == grid("causal", 8)
    with pytest.raises(SpecError, match="strided_fixed: summary must be at most stride=3, got 4"):
        StridedFixed(stride=3, summary=4)
