"""The loss of training: classes by rows against PyTorch's own, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.training.losses import MANY, ROWS, RowsCrossEntropy, cross_entropy, disagreement


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


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
def test_disagreement_is_the_mean_of_both_divergences(share: float) -> None:
    first, targets = _given(9, 7, torch.float32)
    second = _given(9, 7, torch.float32)[0].detach().flip(1).requires_grad_()
    found = disagreement(first, second, _part(targets, share))
    p, q = (one[targets != IGNORED].double().log_softmax(-1) for one in (first, second))
    both = F.kl_div(q, p, log_target=True, reduction="batchmean") + F.kl_div(
        p, q, log_target=True, reduction="batchmean"
    )
    assert found.item() == pytest.approx(0.5 * share * both.item(), rel=1e-5)
    found.backward()
    assert first.grad is not None and second.grad is not None
    assert (first.grad[0, ::5] == 0).all() and (first.grad.norm() > 0) == (share > 0)


def test_disagreement_of_several_labels_is_that_of_each() -> None:
    first, second = (torch.randn(4, 1, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    part = MicroBatch(torch.zeros(4, 5), torch.ones(4, 1, 3), None, 0.5)
    both = [torch.stack([one, torch.zeros_like(one)], -1).log_softmax(-1) for one in (first, second)]
    ways = [F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean() for p, q in (both, both[::-1])]
    assert disagreement(first, second, part).item() == pytest.approx(0.25 * sum(ways).item())


def test_disagreement_about_hidden_classes_and_unscored_rows_is_none() -> None:
    first, targets = _given(6, 5, torch.float32)
    poisoned = first.detach().clone()
    poisoned[..., 3], poisoned[0, 0] = float("-inf"), float("nan")
    poisoned.requires_grad_()
    found = disagreement(poisoned, poisoned + torch.arange(5.0), _part(targets))
    found.backward()
    assert found > 0 and poisoned.grad is not None and torch.isfinite(poisoned.grad).all()


def test_places_that_are_named_are_compared_alone() -> None:
    first, targets = _given(12, 5, torch.float32)
    second = torch.zeros_like(first)
    places = (targets.flatten() != IGNORED).nonzero()[:, 0]
    part = MicroBatch(targets, targets, None, 1.0, scored=places)
    assert disagreement(first, second, part).item() == pytest.approx(disagreement(first, second, _part(targets)).item())
