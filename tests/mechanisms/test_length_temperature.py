from __future__ import annotations

from math import log

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.length_temperature import LengthTemperature
from kernels.attending import attend, operands, parameters, places, sizes


def test_by_hand() -> None:
    query, key = places(0, 1, 3, 15).as_queries(), places(0).as_keys()
    s = torch.full((1, 1, 4, 1), 6.0)
    changed = LengthTemperature(reference=4).modify({}, s, query, key, torch.tensor(0))
    assert changed.flatten().tolist() == pytest.approx([0.0, 3.0, 6.0, 12.0])  # log 1, 2, 4, 16 over log 4


def test_each_head_learns_its_factor_and_begins_as_the_fixed_one() -> None:
    spec = attention("heads=2, mask=causal, scores=length_temperature(reference=3, learned=true)")
    q, k, v = operands(sizes(spec), 5)
    fixed = attend("heads=2, mask=causal, scores=length_temperature(reference=3)", q, k, v).output
    assert torch.allclose(attend(spec, q, k, v).output, fixed, atol=1e-7)  # its parameters are filled in float32
    params = parameters(spec, sizes(spec))
    factor = params["scores"][0]["factor"]
    output = attend(spec, q, k, v, params=params).output
    n = torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]
    s = q @ k.mT / 2 * factor[:, None, None] * n.log()
    hidden = torch.ones(5, 5).triu(1) > 0
    assert torch.allclose(output, s.masked_fill(hidden, float("-inf")).softmax(-1) @ v, atol=1e-12)
    (gradient,) = torch.autograd.grad(output.square().sum(), factor)
    assert (gradient != 0).all()


def test_it_keeps_a_needle_as_heavy_in_a_longer_row() -> None:
    """One key scores log(reference) more than all others: its weight tends to 1/2 whatever the length."""
    shares = []
    for n in (4, 64, 1024):
        place = places(n - 1).as_queries()
        s = torch.zeros(1, 1, 1, n, dtype=torch.float64)
        s[..., 0] = log(64)
        shares.append(
            LengthTemperature(reference=64).modify({}, s, place, place, torch.tensor(0)).softmax(-1)[0, 0, 0, 0]
        )
    assert [share.item() for share in shares] == pytest.approx([4 / 7, 64 / 127, 1024 / 2047])


def test_errors() -> None:
    with pytest.raises(SpecError, match=r"length_temperature.reference: .*got 1"):
        LengthTemperature(reference=1)
    with pytest.raises(SpecError, match="no common order of queries and keys: scores=length_temperature"):
        attention("heads=2, scores=length_temperature").check_cross()
