from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.mechanisms import attention
from attentune.mechanisms.prefix import Prefix
from kernels.attending import grid


def test_everyone_sees_the_prefix() -> None:
    assert grid("causal | prefix(3)", 5) == ["xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"]
    assert grid("causal | prefix", 4, prefix=2) == ["xx..", "xx..", "xxx.", "xxxx"]


def test_each_row_may_have_a_prefix_of_its_own() -> None:
    layout = Layout.plain(3).with_prefix(torch.tensor([1, 3]))
    seen = layout.visible(attention("heads=1, mask=causal | prefix").mask)[:, 0].int().tolist()
    assert seen == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1], [1, 1, 1]]]


def test_without_a_length_the_layout_must_tell_it() -> None:
    assert Prefix().lookahead is None
    assert Prefix(length=4).lookahead == 4
    with pytest.raises(SpecError, match="needs a layout that says how long each row's prefix is"):
        grid("prefix", 3)
