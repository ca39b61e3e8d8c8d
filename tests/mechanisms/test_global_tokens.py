from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.mechanisms import attention
from attentune.mechanisms.global_tokens import GlobalTokens
from kernels.attending import grid


def test_they_see_everything_and_are_seen_by_everything() -> None:
    assert grid("global_tokens(1)", 3) == ["xxx", "x..", "x.."]
    assert grid("global_tokens(positions=(0, 2))", 4) == ["xxxx", "x.x.", "xxxx", "x.x."]
    assert grid("window(3, symmetric=true) | global_tokens(1)", 5) == ["xxxxx", "xxx..", "xxxx.", "x.xxx", "x..xx"]


def test_under_a_causal_mask_they_see_what_came_before() -> None:
    text = "causal & (window(1) | global_tokens(positions=(2,)))"
    assert grid(text, 5) == ["x....", ".x...", "xxx..", "..xx.", "..x.x"]
    assert attention(f"heads=1, mask={text}").mask.lookahead == 0
    assert GlobalTokens(count=1).lookahead is None


def test_every_document_has_its_own() -> None:
    layout = Layout.packed(torch.tensor([[4, 4, 9, 9, 9]]))
    seen = layout.visible(GlobalTokens(count=1))[0, 0].int().tolist()
    assert seen == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]


def test_positions_are_a_set() -> None:
    assert GlobalTokens(positions=(5, 0, 5)) == GlobalTokens(positions=(0, 5))
    spec = attention("heads=2, mask=global_tokens(positions=(5, 0))")
    assert str(spec) == "heads=2, mask=global_tokens(positions=(0, 5))"
    assert attention(str(spec)) == spec
    assert str(attention("heads=2, mask=global_tokens(2)")) == "heads=2, mask=global_tokens(count=2)"


def test_one_of_both() -> None:
    with pytest.raises(SpecError, match=r"give either the first so many, .* got neither"):
        GlobalTokens()
    with pytest.raises(SpecError, match=r"got count=2 and positions=\(3,\)"):
        GlobalTokens(count=2, positions=(3,))
    with pytest.raises(SpecError, match=r"global_tokens.positions.0: .*got -1"):
        GlobalTokens(positions=(-1,))
    with pytest.raises(SpecError, match="mask=global_tokens has no meaning"):
        attention("heads=1, mask=global_tokens(1)").check_cross()
