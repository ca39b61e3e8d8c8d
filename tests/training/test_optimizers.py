"""Parameter groups, clipping, penalties, and what the optimizers do to a known gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attentune.errors import TrainingError
from attentune.spec.run import ClipSpec, OptimizerSpec, RegularizerSpec
from attentune.training.clipping import Clipper, clip_adaptive, clip_norm
from attentune.training.optimizers import build_optimizer, decaying_parameters
from attentune.training.regularizers import add_penalty_gradients
from training.standin import TinyLanguageModel


class Parts(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Parameter(torch.randn(6, 4))
        self.vector = nn.Parameter(torch.randn(4))
        self.table = nn.Parameter(torch.randn(5, 4))
        self.table.weight_decay = False  # type: ignore[attr-defined]
        self.embedding = nn.Parameter(torch.randn(7, 4))
        self.embedding.role = "embedding"  # type: ignore[attr-defined]
        self.head = nn.Parameter(torch.randn(7, 4))
        self.head.role = "head"  # type: ignore[attr-defined]


def stepped(name: Any, *, gradient: float | None = None, **numbers: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters before and after one step; random gradients where `gradient` is None."""
    model = Parts()
    optimizer = build_optimizer(model, OptimizerSpec(name=name, learning_rate=0.1, **numbers))
    for p in model.parameters():
        p.grad = torch.randn_like(p) if gradient is None else torch.full_like(p, gradient)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer.step(0.5)
    return before, {n: p.detach() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["adamw", "adagrad", "adafactor", "muon"])
def test_decay_is_decoupled_and_spares_vectors_and_marked_tables(name: str) -> None:
    before, after = stepped(name, gradient=0.0, weight_decay=0.4)
    for part in ("hidden", "embedding", "head"):
        rate = 0.05 * (0.15 if name == "muon" and part != "hidden" else 1.0)
        torch.testing.assert_close(after[part], before[part] * (1 - rate * 0.4), msg=part)
    assert torch.equal(after["vector"], before["vector"])
    assert torch.equal(after["table"], before["table"])


def test_adamw_first_step_by_hand() -> None:
    before, after = stepped("adamw", gradient=3.0, weight_decay=0.0)
    torch.testing.assert_close(after["hidden"], before["hidden"] - 0.05)  # the bias-corrected first step is the sign


def test_muon_moves_hidden_matrices_along_an_orthogonal_matrix() -> None:
    before, after = stepped("muon", weight_decay=0.0)
    update = (before["hidden"] - after["hidden"]) / 0.05 / (6 / 4) ** 0.5
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.5 and values.max() < 1.3  # Newton-Schulz leaves singular values near 1
    head = (before["head"] - after["head"]).abs()
    torch.testing.assert_close(head, torch.full_like(head, 0.05 * 0.15))  # AdamW's first step, not an orthogonal one


def test_numbers_that_the_optimizer_does_not_read_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"optimizer.momentum=0.5 is not read by adamw"):
        build_optimizer(Parts(), OptimizerSpec(momentum=0.5))


def test_clipping_by_norm_keeps_the_direction() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([2.0, 4.0]), torch.tensor([4.0])
    assert clip_norm([first, second], 1.5).item() == pytest.approx(6.0)
    torch.testing.assert_close(first.grad, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(second.grad, torch.tensor([1.0]))
    assert clip_norm([first, second], 2.0).item() == pytest.approx(1.5)
    torch.testing.assert_close(second.grad, torch.tensor([1.0]))


def test_adaptive_clipping_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]))
    weight.grad = torch.tensor([[0.0, 2.0], [3.0, 4.0], [0.3, 0.4]])
    vector = nn.Parameter(torch.tensor([0.6, 0.8]))
    vector.grad = torch.tensor([0.0, 5.0])
    clip_adaptive([weight, vector], 0.1)
    # row 0: |w| 5, |g| 2 > 0.5; row 1: |w| 0 counts as 0.001, |g| 5; row 2: |w| 10, |g| 0.5 is allowed
    torch.testing.assert_close(weight.grad, torch.tensor([[0.0, 0.5], [0.6e-4, 0.8e-4], [0.3, 0.4]]))
    torch.testing.assert_close(vector.grad, torch.tensor([0.0, 0.1]))


def test_adaptive_clipping_leaves_the_head_alone_and_zero_gradients_finite() -> None:
    model = Parts()
    for p in model.parameters():
        p.grad = torch.full_like(p, 100.0)
    model.vector.grad = torch.zeros(4)
    Clipper(model, ClipSpec(name="agc", limit=0.01))()
    assert model.head.grad is not None and model.hidden.grad is not None
    assert torch.equal(model.head.grad, torch.full_like(model.head, 100.0))
    assert model.hidden.grad.max() < 1
    assert torch.equal(model.vector.grad, torch.zeros(4))


def test_penalties_have_the_gradient_of_their_formula() -> None:
    model = TinyLanguageModel(dropout=0.0)
    ids = torch.randint(10, (2, 5))
    decaying = decaying_parameters(model)
    loss = model(ids).logits.square().mean()
    penalty = sum(0.3 * w.abs().sum() + 0.2 * w.square().sum() for w in decaying)
    expected = torch.autograd.grad(loss + penalty, decaying)
    model(ids).logits.square().mean().backward()
    add_penalty_gradients(decaying, RegularizerSpec(l1=0.3, l2=0.2))
    for parameter, gradient in zip(decaying, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert model.norm.weight not in set(decaying)
