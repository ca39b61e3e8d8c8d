"""Mixers compiled without any break of the graph equal themselves uncompiled, with padding and documents too.

Run by test_mixers.py, in a process without run-time checks of shapes.
"""

from __future__ import annotations

import pytest
import torch

from attentune.mechanisms.gated_delta import GatedDelta
from attentune.mechanisms.linear_attention import LinearAttention
from attentune.mechanisms.retention import Retention
from attentune.mechanisms.short_conv import ShortConv
from attentune.spec.slots import Mixer
from attentune.spec.text import format_value
from mechanisms.mixing import begin, random_parameters

SLOW = pytest.mark.slow
COMPILED = [
    LinearAttention(heads=2, conv=3),
    LinearAttention(features="random", directions=6),
    GatedDelta(heads=2),
    Retention(heads=2),
    ShortConv(),
]


@pytest.mark.parametrize("mixer", COMPILED, ids=format_value)
def test_equals_itself_with_padding_and_documents(mixer: Mixer) -> None:
    valid, starts = torch.ones(2, 9, dtype=torch.bool), torch.zeros(2, 9, dtype=torch.bool)
    valid[0, :3], starts[:, 4] = False, True
    check(mixer, valid, starts)


@pytest.mark.parametrize("mixer", [pytest.param(one, marks=() if one == ShortConv() else SLOW) for one in COMPILED])
def test_equals_itself_on_full_rows(mixer: Mixer) -> None:
    check(mixer, None, None)


def check(mixer: Mixer, valid: torch.Tensor | None, starts: torch.Tensor | None) -> None:
    torch.compiler.reset()
    params = random_parameters(mixer, 8)
    x = torch.randn(2, 9, 8, dtype=torch.float64)

    def run(x: torch.Tensor, valid: torch.Tensor | None, starts: torch.Tensor | None) -> torch.Tensor:
        y, _ = mixer.mix(params, x, begin(mixer, 8, 2), valid, starts)
        return y

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    plain, found = run(x, valid, starts), compiled(x, valid, starts)
    assert torch.allclose(found, plain, atol=1e-11)
    expected = torch.autograd.grad(plain.square().sum(), list(params.values()))
    given = torch.autograd.grad(found.square().sum(), list(params.values()))
    for one, other in zip(given, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
