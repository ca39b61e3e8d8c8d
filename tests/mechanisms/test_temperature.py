from __future__ import annotations

from math import tanh

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.temperature import Temperature
from kernels.attending import places, sizes, weights

Q, K, V = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [1.0]]]]), torch.zeros(1, 1, 2, 1)


def test_scores_are_divided() -> None:
    cold = weights("heads=1, scores=temperature(value=0.5, learned=false)", Q, K, V)
    assert cold.flatten().tolist() == pytest.approx([1 / (1 + 7.38905609893), 0.88079707798])


def test_each_head_learns_its_own_from_value() -> None:
    place = places(0).as_queries()
    s, head = torch.full((1, 2, 1, 1), 6.0), torch.arange(2)[:, None, None]
    log_t = torch.tensor([0.0, 1.0], requires_grad=True)
    changed = Temperature(value=2.0).modify({"log_t": log_t}, s, place, place, head)
    assert changed.flatten().tolist() == pytest.approx([3.0, 3.0 / 2.718281828])
    (gradient,) = torch.autograd.grad(changed.sum(), log_t)  # d(s / t) / d log t = -s / t
    assert gradient.tolist() == pytest.approx([-3.0, -3.0 / 2.718281828])
    factor = Temperature(value=2.0).query_factor({"log_t": log_t})
    assert factor is not None
    assert torch.allclose(factor * 6.0, changed.flatten())
    assert not Temperature(learned=False).parameters(sizes(attention("heads=2")))


def test_it_acts_in_the_order_of_the_scores() -> None:
    k = torch.tensor([[[[0.0], [2.0]]]])
    first = weights("heads=1, scores=temperature(value=2.0, learned=false) + soft_cap(1.0)", Q, k, V)[0, 0, 0, 1]
    second = weights("heads=1, scores=soft_cap(1.0) + temperature(value=2.0, learned=false)", Q, k, V)[0, 0, 0, 1]
    assert first.item() == pytest.approx(torch.sigmoid(torch.tensor(tanh(1.0))).item())
    assert second.item() == pytest.approx(torch.sigmoid(torch.tensor(tanh(2.0) / 2)).item())


def test_must_be_positive() -> None:
    with pytest.raises(SpecError, match=r"temperature.value: .*got 0"):
        Temperature(value=0)
