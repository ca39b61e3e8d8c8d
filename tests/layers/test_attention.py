"""Attention as a module: inputs without tokens, and sizes that do not fit."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention
from shape_checks import unchecked


@pytest.mark.parametrize("kernel", ["reference", "blocked", "sdpa"])
@pytest.mark.parametrize("heads", ["4", "4/2"])
@pytest.mark.parametrize("rows", [(2, 0), (0, 7)])
def test_rows_without_tokens_and_batches_without_rows(kernel: str, heads: str, rows: tuple[int, int]) -> None:
    module = Attention(attention(f"heads={heads}, mask=causal"), width=16)
    module.bind(kernel=kernel)
    x = torch.randn(*rows, 16, requires_grad=True)
    y = module(x, Layout.plain(rows[1])).y
    y.sum().backward()
    assert y.shape == x.shape


def test_sizes_that_do_not_fit_are_one_line() -> None:
    module = unchecked(Attention.forward)
    made = Attention(attention("heads=4, mask=causal"), width=16)
    for x, length, says in (
        (torch.randn(2, 5, 16), 7, "the layout tells 7 positions, and x has 5 tokens"),
        (torch.randn(2, 5, 12), 5, r"attention takes x \[batch, tokens, 16\], got \(2, 5, 12\)"),
        (torch.randn(5, 16), 5, r"got \(5, 16\)"),
    ):
        with pytest.raises(SpecError, match=says):
            module(made, x, Layout.plain(length))
