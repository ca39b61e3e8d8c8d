from __future__ import annotations

import pytest

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.dilated import Dilated
from kernels.attending import grid


def test_every_other_key_the_own_included() -> None:
    assert grid("dilated(3, 2)", 7) == ["x......", ".x.....", "x.x....", ".x.x...", "x.x.x..", ".x.x.x.", "..x.x.x"]


def test_symmetric() -> None:
    assert grid("dilated(3, 2, symmetric=true)", 5) == ["x.x..", ".x.x.", "x.x.x", ".x.x.", "..x.x"]
    assert grid("causal & dilated(5, 3, symmetric=true)", 9) == grid("dilated(3, 3)", 9)


def test_a_dilation_of_one_is_the_window() -> None:
    assert grid("dilated(3, 1)", 6) == grid("window(3)", 6)
    assert grid("dilated(5, 1, symmetric=true)", 6) == grid("window(5, symmetric=true)", 6)


def test_lookahead() -> None:
    assert Dilated(window=4, dilation=2).lookahead == 0
    assert Dilated(window=3, dilation=2, symmetric=True).lookahead is None
    assert Dilated(window=1, dilation=2, symmetric=True).lookahead == 0


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match=r"dilated: a symmetric window is odd .* got 2: write 3 for 1 keys"):
        Dilated(window=2, dilation=3, symmetric=True)
    with pytest.raises(SpecError, match=r"dilated.dilation: .*got 0"):
        Dilated(window=2, dilation=0)
    with pytest.raises(SpecError, match="mask=dilated has no meaning"):
        attention("heads=1, mask=dilated(2, 2)").check_cross()
