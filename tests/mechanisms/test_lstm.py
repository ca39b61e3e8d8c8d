from __future__ import annotations

import pytest
import torch
from torch import nn

from attentune.mechanisms.lstm import LSTM, _recur
from attentune.spec.mechanism import Dims

Tensors = dict[str, torch.Tensor]


def dims(width: int) -> Dims:
    return Dims(width=width, heads=1, groups=1, head_width=width, value_width=width, source_width=width)


def random_parameters(width: int) -> Tensors:
    shapes = {name: p.shape for name, p in LSTM().parameters(dims(width)).items()}
    return {name: torch.randn(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def start(width: int, rows: int) -> Tensors:
    return LSTM().init(dims(width), rows, torch.zeros((), dtype=torch.float64))


def test_one_step_by_hand() -> None:
    params = {"w": torch.ones(4, 1), "u": torch.zeros(4, 1), "b": torch.zeros(4)}
    y, state = LSTM().mix(params, torch.ones(1, 1, 1), {"h": torch.zeros(1, 1), "c": torch.zeros(1, 1)}, None, None)
    # gates sigmoid(1) = .731059, tanh(1) = .761594: c = .556770, h = .731059 tanh(.556770)
    assert state["c"].item() == pytest.approx(0.556770, abs=1e-6)
    assert y.item() == pytest.approx(0.369611, abs=1e-5)


def test_equals_the_module_of_torch_in_outputs_and_gradients() -> None:
    theirs, params = nn.LSTM(3, 3, batch_first=True, dtype=torch.float64), random_parameters(3)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(params["w"])
        theirs.weight_hh_l0.copy_(params["u"])
        theirs.bias_ih_l0.copy_(params["b"])
        theirs.bias_hh_l0.zero_()
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    y, state = LSTM().mix(params, x, start(3, 2), None, None)
    expected, (h, c) = theirs(x)
    assert torch.allclose(y, expected, atol=1e-12)
    assert torch.allclose(state["h"], h[0], atol=1e-12)
    assert torch.allclose(state["c"], c[0], atol=1e-12)
    mine = torch.autograd.grad(y.square().sum(), [x, *params.values()])
    other = torch.autograd.grad(
        expected.square().sum(), [x, theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0]
    )
    for a, b in zip(mine, other, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("with_layout", [False, True])
def test_own_backward_by_finite_differences(with_layout: bool) -> None:
    gates, u = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 8), (8, 2)))
    h, c = (torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    valid = starts = None
    if with_layout:
        valid = torch.tensor([[False, True, True, True, False], [True, True, False, True, True]])
        starts = torch.tensor([[False, False, True, False, False], [False, False, False, True, False]])
    assert torch.autograd.gradcheck(lambda *t: _recur(*t, valid, starts), (gates, u, h, c))
    torch.library.opcheck(_recur, (gates, u, h, c, valid, starts))


def test_in_pieces_equals_at_once() -> None:
    params, x = random_parameters(3), torch.randn(2, 7, 3, dtype=torch.float64)
    whole, _ = LSTM().mix(params, x, start(3, 2), None, None)
    state, parts = start(3, 2), []
    for piece in x.split([3, 1, 3], 1):
        y, state = LSTM().mix(params, piece, state, None, None)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-12)


def test_padding_leaves_the_state_alone_and_documents_start_afresh() -> None:
    params, x = random_parameters(3), torch.randn(1, 4, 3, dtype=torch.float64)
    whole, last = LSTM().mix(params, x, start(3, 1), None, None)
    poison = torch.full((1, 2, 3), float("nan"), dtype=torch.float64)
    row = torch.cat([poison[:, :1], x[:, :2], poison[:, 1:], x[:, 2:]], 1)
    valid = torch.tensor([[False, True, True, False, True, True]])
    y, state = LSTM().mix(params, row, start(3, 1), valid, None)
    assert torch.allclose(y[valid], whole[0], atol=1e-12)
    assert (y[~valid] == 0).all()
    assert torch.allclose(state["h"], last["h"], atol=1e-12)
    gradients = torch.autograd.grad(y.sum(), list(params.values()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)

    starts = torch.tensor([[True, False, True, False]])
    y, _ = LSTM().mix(params, x, start(3, 1), None, starts)
    alone, _ = LSTM().mix(params, x[:, 2:], start(3, 1), None, None)
    assert torch.allclose(y[:, 2:], alone, atol=1e-12)
    assert not torch.allclose(whole[:, 2:], alone)


def test_bfloat16_adds_up_in_float32() -> None:
    params, x = random_parameters(3), torch.randn(1, 60, 3, dtype=torch.float64)
    low = {name: p.detach().bfloat16() for name, p in params.items()}
    for valid in (None, torch.ones(1, 60, dtype=torch.bool)):
        y, state = LSTM().mix(low, x.bfloat16(), {n: s.bfloat16() for n, s in start(3, 1).items()}, valid, None)
        assert y.dtype is torch.bfloat16
        assert all(held.dtype is torch.float32 for held in state.values())


def test_low_precision_gradients_are_those_of_double_but_for_rounding() -> None:
    params, x = random_parameters(8), torch.randn(3, 12, 8, dtype=torch.float64)
    valid = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]
    low = {name: p.detach().bfloat16().requires_grad_() for name, p in params.items()}
    inputs = {torch.float64: (params, x), torch.bfloat16: (low, x.bfloat16())}
    found = {}
    for dtype, (given, row) in inputs.items():
        zeros = {name: state.to(dtype) for name, state in start(8, 3).items()}
        y, _ = LSTM().mix(given, row, zeros, valid, None)
        found[dtype] = [g.double() for g in torch.autograd.grad(y.double().square().sum(), list(given.values()))]
    for exact, rounded in zip(*found.values(), strict=True):
        assert (rounded - exact).norm() < 0.03 * exact.norm()
