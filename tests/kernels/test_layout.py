from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout, LayoutKind
from attentune.mechanisms import attention

CAUSAL = attention("heads=1, mask=causal").mask


def test_positions_count_real_tokens_alone() -> None:
    layout = Layout.padded(torch.tensor([[False, True, True], [True, False, True], [False, False, False]]))
    assert layout.key.position.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert layout.visible(CAUSAL)[:, 0].int().tolist() == [
        [[0, 0, 0], [0, 1, 0], [0, 1, 1]],
        [[1, 0, 0], [0, 0, 0], [1, 0, 1]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    ]


def test_packed_documents_begin_at_zero_and_an_id_may_come_back() -> None:
    layout = Layout.packed(torch.tensor([[3, 3, 1, 3, -1]]))
    assert layout.key.position.tolist() == [[0, 1, 0, 0, 0]]
    assert layout.visible(CAUSAL)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    starts = layout.starts
    assert starts is not None
    assert starts.int().tolist() == [[1, 0, 1, 1, 0]]
    assert Layout.plain(3).starts is None


def test_padding_must_be_boolean() -> None:
    with pytest.raises((SpecError, TypeError), match=r"True on real tokens, got torch\.int64|Bool\[Tensor, 'B T'\]"):
        Layout.padded(torch.tensor([[1, 0]]))


def test_cross_attention_knows_no_documents() -> None:
    layout = Layout.cross(Layout.packed(torch.tensor([[0, 1]])).query, Layout.plain(3).key)
    assert layout.kind is LayoutKind.CROSS
    assert layout.visible(attention("heads=1").mask).all()


def test_what_is_shared_by_the_layers_is_made_once() -> None:
    layout, made = Layout.plain(3), []
    for _ in range(2):
        layout.once("name", lambda: made.append(1))
    assert made == [1]
    assert layout.visible(CAUSAL) is layout.visible(attention("heads=4, mask=causal").mask)
