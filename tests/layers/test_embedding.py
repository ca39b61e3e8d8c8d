from __future__ import annotations

from math import cos, sin

import pytest
import torch

from attentune.layers.embedding import sinusoid


def test_sinusoid_by_hand() -> None:
    # width 4: pair 0 turns by p / 10000^(0/4) = p, pair 1 by p / 10000^(2/4) = p / 100
    found = sinusoid(torch.tensor([[0, 3, 250]]), 4)[0]
    for row, p in zip(found.tolist(), (0, 3, 250), strict=True):
        assert row == pytest.approx([sin(p), cos(p), sin(p / 100), cos(p / 100)], abs=1e-6)


def test_the_common_misprint_is_another_function() -> None:
    # "sin(p / 10000^i)": pair 1 would turn by p / 10000, and every further pair stand still over any row
    width = 8
    found = sinusoid(torch.arange(1000)[None], width)[0].double()
    misprinted = [sin(500 / 10000**i) for i in range(width // 2)]
    right = [sin(500 / 10000 ** (2 * i / width)) for i in range(width // 2)]
    assert found[500, 0::2].tolist() == pytest.approx(right, abs=1e-6)
    assert (found[500, 0::2] - torch.tensor(misprinted).double()).abs()[1:].min() > 0.1
    # wavelengths grow as a geometric series from 2 pi to 10000 * 2 pi, as the paper says
    turns = torch.atan2(found[1, 0::2], found[1, 1::2])
    assert (turns[1:] / turns[:-1]).tolist() == pytest.approx([10000 ** (-2 / width)] * 3, rel=1e-4)


def test_a_shift_is_a_rotation_that_does_not_depend_on_the_position() -> None:
    # the reason that the paper gives for the sinusoid: PE(p + s) is linear in PE(p)
    places = sinusoid(torch.arange(60)[None], 6)[0].double()
    pairs = torch.complex(places[:, 1::2], places[:, 0::2])  # e^(i p f)
    shift = pairs[7] / pairs[0]
    assert torch.allclose(pairs[:-7] * shift, pairs[7:], atol=1e-5)


def test_an_odd_width_ends_with_a_sine() -> None:
    found = sinusoid(torch.tensor([[2]]), 3)[0, 0]
    assert found.tolist() == pytest.approx([sin(2), cos(2), sin(2 / 10000 ** (2 / 3))], abs=1e-6)


def test_equals_the_closed_form_at_far_positions() -> None:
    place = 1_000_003
    found = sinusoid(torch.tensor([[place]]), 16)[0, 0]
    expected = [f(place / 10000 ** (2 * i / 16)) for i in range(8) for f in (sin, cos)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
