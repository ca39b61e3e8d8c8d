"""Dropout: the right share is set to zero, the mean stays, the gradient goes where the numbers went."""

from __future__ import annotations

import pytest
import torch

from attentune.layers.dropout import dropout


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_share_and_mean(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = dropout(torch.ones(401, 503, dtype=dtype), share)
    count = y.numel()
    zero = (y == 0).double().mean().item()
    assert zero == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5 + 1 / 65536)
    assert y.dtype is dtype and len(y.unique()) == 2
    torch.testing.assert_close(y.max(), torch.tensor(1 / (1 - share), dtype=dtype), rtol=1e-4, atol=1e-2)
    rows, columns = (y == 0).double().mean(1), (y == 0).double().mean(0)
    usual = (share * (1 - share)) ** 0.5
    assert rows.std() < 2 * usual / 503**0.5 and columns.std() < 2 * usual / 401**0.5


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)])
def test_any_shape_and_the_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.full(shape, 2.0, requires_grad=True)
    y = dropout(x, 0.5)
    y.sum().backward()
    assert x.grad is not None and y.shape == x.shape
    torch.testing.assert_close(x.grad, y.detach() / 2)


def test_equal_seeds_drop_the_same_and_neighbours_fall_independently() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(100_000), 0.5) == 0

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))
    dropped = drawn(5).double() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs((dropped[:-distance] * dropped[distance:]).mean().item()) < 0.25 * 5 / 100_000**0.5
