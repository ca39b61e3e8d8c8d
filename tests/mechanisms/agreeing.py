"""What the tests against code written from the papers share: the comparison itself, and our one matrix taken apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from oracles.arrays import Array

Given = dict[str, Tensor]
Arrays = dict[str, Array]
Ours = Callable[[Given], Tensor]
Theirs = Callable[[Arrays], Array]
STEP = 1e-6


def assert_agree(ours: Ours, theirs: Theirs, given: Given, *, entries: int = 3) -> None:
    """Outputs equal to 1e-10, and our gradients to their central differences at a few entries of each tensor."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in given.items()}
    arrays = {name: tensor.detach().numpy().copy() for name, tensor in given.items()}
    found, expected = ours(leaves), theirs(arrays)
    assert found.dtype is torch.float64 and found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found.detach().numpy() - expected).max() <= 1e-10 * max(1.0, np.abs(expected).max())
    direction = torch.randn(found.shape, dtype=torch.float64)
    slopes = torch.autograd.grad((found * direction).sum(), list(leaves.values()))
    for (name, array), slope in zip(arrays.items(), slopes, strict=True):
        assert slope.abs().max() > 1e-6, name
        for place in torch.randperm(array.size)[:entries].tolist():
            moved = []
            for step in (STEP, -STEP):
                shifted = array.copy()
                shifted.flat[place] += step
                moved.append(float((theirs(arrays | {name: shifted}) * direction.numpy()).sum()))
            expected_slope = (moved[0] - moved[1]) / (2 * STEP)
            assert slope.flatten()[place].item() == pytest.approx(expected_slope, rel=1e-6, abs=1e-7), name


def split(given: Arrays, name: str, query: int, key: int) -> Arrays:
    """Our one matrix for q, k and v, and the one back, by their names; biases too where there are any."""
    found: Arrays = {}
    for end, suffix in (("weight", ""), ("bias", "_bias")):
        if f"{name}qkv{suffix}" in given:
            q, k, v = np.split(given[f"{name}qkv{suffix}"], [query, query + key])
            found |= {
                f"query.{end}": q,
                f"key.{end}": k,
                f"value.{end}": v,
                f"output.{end}": given[f"{name}out{suffix}"],
            }
    return found


def called(module: nn.Module) -> Ours:
    """The module with the parameters and the `x` that are given."""

    def run(given: Given) -> Tensor:
        own = {name: tensor for name, tensor in given.items() if name != "x"}
        found: Tensor = functional_call(module, own, (given["x"],))
        return found

    return run
