from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.learned_bias import LearnedBias
from kernels.attending import attend, operands, parameters, places, sizes


def added(value: LearnedBias, table: torch.Tensor, *position: int) -> list[list[float]]:
    place = places(*position)
    s = torch.zeros(1, 1, len(position), len(position))
    found = value.modify({"table": table}, s, place.as_queries(), place.as_keys(), torch.tensor([[[0]]]))
    rows: list[list[float]] = found[0, 0].tolist()
    return rows


def test_per_distance_by_hand() -> None:
    table = torch.tensor([[1.0, 2.0, 3.0]])
    # Later keys share distance 0, and all beyond two tokens the last entry.
    assert added(LearnedBias(length=3), table, 0, 1, 5) == [[1, 1, 1], [2, 1, 1], [3, 3, 1]]
    both = torch.tensor([[-3.0, -2.0, 1.0, 2.0, 3.0]])
    assert added(LearnedBias(length=3, bidirectional=True), both, 0, 1, 5) == [[1, -2, -3], [2, 1, -3], [3, 3, 1]]


def test_per_position_by_hand() -> None:
    table = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert added(LearnedBias(length=2, per="position"), table, 0, 1, 9) == [[1, 2, 2], [3, 4, 4], [3, 4, 4]]


@pytest.mark.parametrize("per", ["distance", "position"])
def test_it_begins_at_nothing_and_each_head_learns(per: str) -> None:
    spec = attention(f"heads=2, mask=causal, scores=learned_bias(4, per={per})")
    q, k, v = operands(sizes(spec), 4)
    assert torch.equal(attend(spec, q, k, v).output, attend("heads=2, mask=causal", q, k, v).output)
    params = parameters(spec, sizes(spec))
    table = params["scores"][0]["table"]
    output = attend(spec, q, k, v, params=params).output
    i, j = torch.arange(4)[:, None], torch.arange(4)
    bias = table[:, (i - j).clamp(min=0)] if per == "distance" else table[:, i, j]
    s = (q @ k.mT / 2 + bias).masked_fill(j > i, float("-inf"))
    assert torch.allclose(output, s.softmax(-1) @ v, atol=1e-12)
    (gradient,) = torch.autograd.grad(output.square().sum(), table)
    learnt = gradient != 0
    assert learnt.all() if per == "distance" else torch.equal(learnt[0], (j <= i) & (i > 0))


def test_shapes_and_errors() -> None:
    dims = sizes(attention("heads=2"))
    assert LearnedBias(length=5).parameters(dims)["table"].shape == (2, 5)
    assert LearnedBias(length=5, bidirectional=True).parameters(dims)["table"].shape == (2, 9)
    assert LearnedBias(length=5, per="position").parameters(dims)["table"].shape == (2, 5, 5)
    with pytest.raises(SpecError, match="bidirectional concerns distances"):
        LearnedBias(length=5, per="position", bidirectional=True)
    with pytest.raises(SpecError, match=r"learned_bias.length: .*got 0"):
        LearnedBias(length=0)


def test_cross_attention_has_positions_but_no_distances() -> None:
    attention("heads=2, scores=learned_bias(4, per=position)").check_cross()
    with pytest.raises(SpecError, match="no common order of queries and keys: scores=learned_bias"):
        attention("heads=2, scores=learned_bias(4)").check_cross()
