"""Language-model quality by one fixed protocol.

The whole text is cut into consecutive windows of `context` tokens. Every token but the very first is predicted exactly
once, and every one counts the same: the sum of all losses divided by their number. With `stride < context` windows
overlap and only the last `stride` tokens of each are scored (all of the first window), so that each has at least
`context - stride` tokens before it. A model that carries memory reads the windows in order, in eight parallel
streams (and what is left over in a ninth), whatever the batch, so that its score does not depend on it either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentune.data.tokenizers import Tokenizer
from attentune.errors import DataError
from attentune.shapes import Float, Int

MEMORY_STREAMS = 8


@dataclass(frozen=True)
class LanguageScore:
    """Quality on a text: `tokens` predicted tokens, their mean loss, and the same per character and per UTF-8 byte.

    Characters and bytes are those of the decoded predicted tokens; a document separator costs nats and is no character.
    """

    nats_per_token: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    tokens: int


def evaluate_language(
    model: nn.Module,
    tokens: Any,
    tokenizer: Tokenizer,
    *,
    context: int,
    batch: int = 32,
    limit: int | None = None,
    stride: int | None = None,
) -> LanguageScore:
    """Scores `model` on `tokens`, or on its first `limit` predicted tokens, by the protocol above.

    Args:
        model: called as `model(ids)`, with `state=` if it carries memory; its training mode is restored afterwards.
        tokens: token numbers of the text, [N].
        tokenizer: turns them back into text, to count characters and bytes.
        context: tokens a window holds.
        batch: windows that go through the model together; does not change the score.
        limit: predicted tokens at most.
        stride: tokens from one window to the next; `context` where None.

    Raises:
        DataError: fewer than two tokens, or a stride that does not fit.
    """
    nats, count = language_loss(model, tokens, context=context, batch=batch, limit=limit, stride=stride)
    text = tokenizer.decode(np.asarray(tokens[1 : count + 1]).tolist())
    bits = nats / math.log(2)
    mean = nats / count
    return LanguageScore(
        nats_per_token=mean,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        bits_per_character=bits / max(1, len(text)),
        bits_per_byte=bits / max(1, len(text.encode("utf-8", errors="replace"))),
        tokens=count,
    )


@torch.no_grad()
def language_loss(
    model: nn.Module,
    tokens: Any,
    *,
    context: int,
    batch: int = 32,
    limit: int | None = None,
    stride: int | None = None,
) -> tuple[float, int]:
    """The sum of the losses in nats, and the number of predicted tokens; arguments as `evaluate_language`."""
    device = next(model.parameters()).device
    text = tokens if isinstance(tokens, Tensor) else torch.from_numpy(np.ascontiguousarray(tokens))
    predicted = len(text) - 1 if limit is None else min(limit, len(text) - 1)
    stride = context if stride is None else stride
    if predicted < 1:
        raise DataError(f"evaluation needs at least 2 tokens, got {len(text)}; use more text")
    if not 1 <= stride <= context:
        raise DataError(f"stride must be between 1 and context={context}, got {stride}")
    text = text[: predicted + 1].to(device, torch.long)
    has_memory = bool(getattr(model, "has_memory", False))
    if has_memory and stride != context:
        raise DataError(f"stride={stride} does not fit a model with memory, which reads every token once; leave it out")
    with _evaluating(model):
        if has_memory:
            return _with_memory(model, text, context), predicted
        return _in_windows(model, text, context, stride, batch), predicted


def _in_windows(model: nn.Module, text: Int[Tensor, "N"], context: int, stride: int, batch: int) -> float:
    predicted = len(text) - 1
    nats = 0.0
    windows = 1 + max(0, (predicted - context) // stride) if predicted >= context else 0
    if windows:
        ids = text[:-1].unfold(0, context, stride)[:windows]
        targets = text[1:].unfold(0, context, stride)[:windows]
        for first in range(0, windows, batch):
            losses = _losses(model(ids[first : first + batch]).logits, targets[first : first + batch])
            if first == 0:
                nats += losses[0, : context - stride].sum().item()
            nats += losses[:, context - stride :].sum().item()
    done = context + (windows - 1) * stride if windows else 0
    if done < predicted:
        start = max(0, windows * stride)
        losses = _losses(model(text[start:-1].unsqueeze(0)).logits, text[start + 1 :].unsqueeze(0))
        nats += losses[:, done - start :].sum().item()
    return nats


def _with_memory(model: nn.Module, text: Int[Tensor, "N"], context: int) -> float:
    predicted = len(text) - 1
    length = predicted // (MEMORY_STREAMS * context) * context
    nats = 0.0
    whole = MEMORY_STREAMS * length
    if length:
        nats += _stream(model, text[:whole].view(MEMORY_STREAMS, length), text[1 : whole + 1].view(-1, length), context)
    if whole < predicted:
        nats += _stream(model, text[whole:-1].unsqueeze(0), text[whole + 1 :].unsqueeze(0), context)
    return nats


def _stream(model: nn.Module, ids: Int[Tensor, "B N"], targets: Int[Tensor, "B N"], context: int) -> float:
    state: Any = None
    nats = 0.0
    for start in range(0, ids.shape[1], context):
        output = model(ids[:, start : start + context], state=state)
        state = output.state
        nats += _losses(output.logits, targets[:, start : start + context]).sum().item()
    return nats


def _losses(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Cross-entropy in nats, in float64 so that summing a long text loses nothing."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return losses.double().view_as(targets)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
