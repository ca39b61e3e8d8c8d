from __future__ import annotations

import torch

from attentune.kernels import Layout
from attentune.mechanisms import attention
from kernels.attending import grid


def test_the_first_keys_stay_visible() -> None:
    assert grid("causal & (window(2) | sink(1))", 5) == ["x....", "xx...", "xxx..", "x.xx.", "x..xx"]
    assert grid("sink(2)", 3) == ["xx.", "xx.", "xx."]


def test_alone_it_shows_later_keys_but_not_under_a_causal_mask() -> None:
    assert attention("heads=1, mask=sink(2)").mask.lookahead == 2
    assert attention("heads=1, mask=causal & (window(2) | sink(2))").mask.lookahead == 0
    assert attention("heads=1, mask=window(2) | sink(3)").mask.lookahead == 3


def test_every_document_has_sinks_of_its_own() -> None:
    layout = Layout.packed(torch.tensor([[5, 5, 5, 7, 7, 7]]))
    seen = layout.visible(attention("heads=1, mask=causal & (window(1) | sink(1))").mask)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 1],
    ]
