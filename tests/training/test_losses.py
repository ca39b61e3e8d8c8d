"""The loss of training: classes by rows against PyTorch's own, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.training.losses import MANY, ROWS, RowsCrossEntropy, cross_entropy


def _part(targets: torch.Tensor, share: float = 1.0) -> MicroBatch:
    return MicroBatch(torch.zeros_like(targets), targets, None, share)


def _given(rows: int, classes: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(rows)
    logits = (3 * torch.randn(1, rows, classes, generator=random)).to(dtype).requires_grad_()
    targets = torch.randint(0, classes, (1, rows), generator=random)
    targets[0, ::5] = IGNORED
    return logits, targets


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [2, ROWS, 2 * ROWS + 7])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_rows_give_the_loss_and_the_gradient_of_pytorch(
    dtype: torch.dtype, close: float, rows: int, label_smoothing: float
) -> None:
    logits, targets = _given(rows, MANY + 3, dtype)
    (2.5 * cross_entropy(logits, _part(targets, 0.5), label_smoothing)).backward()
    exact = logits.detach().double().requires_grad_()
    loss = F.cross_entropy(exact[0], targets[0], ignore_index=IGNORED, label_smoothing=label_smoothing)
    (1.25 * loss).backward()
    assert logits.grad is not None and exact.grad is not None
    assert cross_entropy(logits, _part(targets), label_smoothing).item() == pytest.approx(loss.item(), rel=close)
    error = (logits.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < close
    assert (logits.grad[0, ::5] == 0).all()


def test_rows_are_used_for_many_classes_alone() -> None:
    for classes, used in ((MANY, True), (MANY - 1, False)):
        logits, targets = _given(4, classes, torch.float32)
        made = cross_entropy(logits, _part(targets)).grad_fn
        assert (type(made).__name__ == f"{RowsCrossEntropy.__name__}Backward") is used


def test_logits_that_are_not_finite_in_an_unscored_row_do_no_harm() -> None:
    logits, targets = _given(6, MANY, torch.float32)
    poisoned = logits.detach().clone()
    poisoned[0, 0] = float("nan")
    assert torch.isfinite(cross_entropy(poisoned.requires_grad_(), _part(targets)))


def test_a_loss_that_is_not_finite_is_told() -> None:
    logits, targets = _given(6, MANY, torch.float32)
    poisoned = logits.detach().clone()
    poisoned[0, 1] = float("inf")
    assert not torch.isfinite(cross_entropy(poisoned.requires_grad_(), _part(targets)))
