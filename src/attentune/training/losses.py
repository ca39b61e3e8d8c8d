"""What training makes small: the cross entropy of classes, or of labels that hold or not."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch

ROWS = 64  # of logits that are worked on together: with some thousand classes they stay in a core's cache
MANY = 256  # classes from which on that pays
NEVER = -1e4  # the logarithm of a probability that is taken for 0, so that classes that are hidden do not give 0 * inf


def cross_entropy(logits: Tensor, part: MicroBatch, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss of the scored targets in nats, times the micro-batch's share of its step.

    Shape: logits [B T V], of an ensemble in training [M B T V], of which it is the mean over the members; the result is
    a scalar. Where no target is scored it is 0.
    """
    if part.share == 0.0:
        return logits.sum() * 0.0
    if part.holds_several:
        wanted = smoothed(part.targets, label_smoothing).expand_as(logits)
        each = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=part.class_weights)
        return each if part.share == 1.0 else each * part.share
    flat, targets = _rows(logits, part)
    if part.class_weights is None:
        loss = _of_rows(flat, targets, label_smoothing)
    else:
        summed = F.cross_entropy(
            flat,
            targets,
            weight=part.class_weights,
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        loss = summed / (targets != IGNORED).sum()
    return loss if part.share == 1.0 else loss * part.share


def _rows(logits: Tensor, part: MicroBatch) -> tuple[Tensor, Tensor]:
    """Logits [N V] of the places that may be scored and their targets, the same for all members of an ensemble."""
    targets = part.targets.expand(logits.shape[:-1]).flatten()
    flat = logits.flatten(0, -2)
    if part.scored is None:
        return flat, targets
    places = part.scored
    if len(flat) > part.targets.numel():
        firsts = torch.arange(0, len(flat), part.targets.numel(), device=places.device)
        places = (firsts[:, None] + places).flatten()
    return flat.index_select(0, places), targets.index_select(0, places)


def disagreement(first: Tensor, second: Tensor, part: MicroBatch) -> Tensor:
    """1/2 [KL(p || q) + KL(q || p)] of what two passes say, p = softmax(first) and q = softmax(second), in nats: the
    mean over the scored targets, times the micro-batch's share of its step. Of several labels it is that of each.

    R-Drop: Regularized Dropout for Neural Networks, arXiv:2106.14448, equation 2. The two sums of the definition are
    one, 1/2 sum_v (p_v - q_v) (log p_v - log q_v).

    Shape: both as the logits of `cross_entropy`; the result is a scalar. Where no target is scored it is 0.
    """
    if part.share == 0.0:
        return (first.sum() + second.sum()) * 0.0
    if part.holds_several:  # of two outcomes the difference of the logs is that of the logits
        return 0.5 * ((first.sigmoid() - second.sigmoid()) * (first - second)).mean() * part.share
    (flat, targets), (other, _) = _rows(first, part), _rows(second, part)
    seen = targets != IGNORED
    log_p, log_q = (F.log_softmax(one[seen].float(), -1).clamp(min=NEVER) for one in (flat, other))
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean() * part.share


def smoothed(targets: Tensor, label_smoothing: float) -> Tensor:
    """Labels of 0 and 1 moved towards one half."""
    return targets * (1 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else targets


def _of_rows(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """The mean over the scored rows of logits [N V]; on a CPU by `RowsCrossEntropy` where there are many classes."""
    if logits.device.type == "cpu" and logits.shape[-1] >= MANY and logits.requires_grad:
        mean: Tensor = RowsCrossEntropy.apply(logits, targets, label_smoothing)  # type: ignore[no-untyped-call]
        return mean
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=label_smoothing)


@final
class RowsCrossEntropy(torch.autograd.Function):
    """The mean of (1 - e) (-log p_target) + e / V sum_v (-log p_v), p = softmax(logits), over the scored rows of [N V].

    The gradient, (p - e / V - (1 - e) [v = target]) / N, is computed with the loss, `ROWS` rows at a time, and kept in
    the dtype of the logits: their probabilities in float32 are never there as a whole, which takes half the time that
    PyTorch's own needs on a CPU (2.13).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        classes = logits.shape[-1]
        exact = torch.float32 if logits.dtype.itemsize < 4 else logits.dtype
        seen = targets != IGNORED
        share = seen.to(exact) / seen.sum()
        chosen = targets.clamp(min=0)[:, None]
        gradient = torch.empty_like(logits)
        total = torch.zeros((), dtype=exact)
        off = torch.full((ROWS, 1), label_smoothing - 1, dtype=exact)
        for start in range(0, len(logits), ROWS):
            rows = slice(start, start + ROWS)
            log_p = F.log_softmax(logits[rows], -1, dtype=exact)
            each = log_p.gather(1, chosen[rows])[:, 0] * (label_smoothing - 1)
            if label_smoothing:
                each -= log_p.sum(-1) * (label_smoothing / classes)
            total += each.masked_fill_(~seen[rows], 0.0) @ share[rows]
            p = log_p.exp_()
            if label_smoothing:
                p -= label_smoothing / classes
            p.scatter_add_(1, chosen[rows], off[: len(p)])
            gradient[rows] = p.mul_(share[rows, None])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None
