from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.window import Window
from kernels.attending import attend, grid, operands, sizes


def test_a_window_of_w_shows_w_keys_the_querys_own_included() -> None:
    assert grid("window(1)", 3) == ["x..", ".x.", "..x"]
    assert grid("window(2)", 4) == ["x...", "xx..", ".xx.", "..xx"]
    assert grid("causal & window(2)", 4) == grid("window(2)", 4)


def test_a_window_as_long_as_the_row_is_the_causal_mask() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 6)
    wide, causal = attend("heads=2, mask=window(6)", q, k, v), attend("heads=2, mask=causal", q, k, v)
    assert torch.equal(wide.output, causal.output)
    assert not torch.allclose(attend("heads=2, mask=window(5)", q, k, v).output, causal.output)


def test_a_window_of_one_returns_the_values() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 4)
    assert torch.allclose(attend("heads=2, mask=window(1)", q, k, v).output, v, atol=1e-15)


def test_a_window_holds_at_least_one_key() -> None:
    with pytest.raises(SpecError, match=r"window.window: .*got 0"):
        Window(window=0)


def test_a_symmetric_window_of_w_shows_w_keys_too() -> None:
    assert grid("window(3, symmetric=true)", 5) == ["xx...", "xxx..", ".xxx.", "..xxx", "...xx"]
    assert grid("window(1, symmetric=true)", 3) == grid("window(1)", 3)
    assert grid("causal & window(5, symmetric=true)", 6) == grid("window(3)", 6)


def test_only_a_symmetric_window_looks_ahead() -> None:
    assert Window(window=5).lookahead == 0
    assert Window(window=5, symmetric=True).lookahead is None
    assert Window(window=1, symmetric=True).lookahead == 0


def test_a_symmetric_window_has_a_middle() -> None:
    with pytest.raises(SpecError, match=r"a symmetric window is odd .* got 4: write 5 for 2 keys on either side"):
        attention("heads=1, mask=window(4, symmetric=true)")


def test_longformers_band_in_numbers() -> None:
    """Its `attention_window=4` is two keys on either side: |i - j| <= 2, written out."""
    band = torch.ones(7, 7).triu(-2).tril(2)
    seen = [[one == "x" for one in row] for row in grid("window(5, symmetric=true)", 7)]
    assert torch.equal(torch.tensor(seen).float(), band)
