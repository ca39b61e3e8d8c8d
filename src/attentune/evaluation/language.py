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

from attentune.data.batches import IGNORED, Batch, validation_batches
from attentune.data.corpus import Tokens
from attentune.data.tokenizers import Tokenizer
from attentune.errors import DataError
from attentune.kernels.layout import Layout
from attentune.shapes import Int

MEMORY_STREAMS = 8
# Losses of the scored targets in nats, float64 [N]; these targets [N]; layers that each token went through [B T].
Scored = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class LanguageScore:
    """Quality on a text: `tokens` predicted tokens, their mean loss, and the same per character and per UTF-8 byte.

    Characters and bytes are those of the predicted tokens; an end of text costs nats and is no character.
    `layers_per_token` is how many layers each token that was read went through, in the mean, where tokens may halt.
    """

    nats_per_token: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    tokens: int
    layers_per_token: float | None = None


@torch.no_grad()
def evaluate_language(
    model: nn.Module,
    tokens: Tokens,
    tokenizer: Tokenizer,
    *,
    context: int,
    batch: int = 32,
    limit: int | None = None,
    stride: int | None = None,
    isolate_documents: bool = False,
) -> LanguageScore:
    """Scores `model` on `tokens` by the protocol above.

    Args:
        model: called as `model(ids)`, or `model(ids, layout)` where documents are isolated, and with `state=` if its
            `has_memory` is true; its training mode is restored afterwards.
        tokens: the text.
        tokenizer: says how many characters and bytes each token holds.
        context: tokens a window holds.
        batch: windows that go through the model together; does not change the score.
        limit: about how many tokens to predict: evenly spaced windows, always the same ones; the first tokens for
            overlapping windows and models with memory. None predicts all.
        stride: tokens from one window to the next; `context` where None.
        isolate_documents: no attention from one document to another, and their first tokens are not predicted.

    Raises:
        DataError: fewer than two tokens, or arguments that do not go together.
    """
    nats, count, characters, size, layers, read = 0.0, 0, 0, 0, 0, 0
    for losses, targets, depths in _scored(model, tokens, context, batch, limit, stride, isolate_documents):
        nats += losses.sum().item()
        count += len(targets)
        numbers = targets.cpu().numpy()
        characters += int(tokenizer.character_lengths[numbers].sum(dtype=np.int64))
        size += int(tokenizer.byte_lengths[numbers].sum(dtype=np.int64))
        if depths is not None:
            layers, read = layers + int(depths.sum()), read + int((depths > 0).sum())
    mean = nats / count
    bits = nats / math.log(2)
    return LanguageScore(
        nats_per_token=mean,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        bits_per_character=bits / characters if characters else math.inf,
        bits_per_byte=bits / size if size else math.inf,
        tokens=count,
        layers_per_token=layers / read if read else None,
    )


@torch.no_grad()
def language_loss(
    model: nn.Module,
    tokens: Tokens,
    *,
    context: int,
    batch: int = 32,
    limit: int | None = None,
    stride: int | None = None,
    isolate_documents: bool = False,
) -> float:
    """Only the mean loss in nats per token; everything as in `evaluate_language`."""
    nats, count = 0.0, 0
    for losses, targets, _ in _scored(model, tokens, context, batch, limit, stride, isolate_documents):
        nats += losses.sum().item()
        count += len(targets)
    return nats / count


def _scored(
    model: nn.Module,
    tokens: Tokens,
    context: int,
    batch: int,
    limit: int | None,
    stride: int | None,
    isolate_documents: bool,
) -> Iterator[Scored]:
    """The losses of the scored targets, batch by batch."""
    if len(tokens.ids) < 2:
        raise DataError(f"evaluation needs at least 2 tokens, got {len(tokens.ids)}; use more text")
    if stride is not None and not 1 <= stride <= context:
        raise DataError(f"stride must be between 1 and context={context}, got {stride}")
    overlapping = stride is not None and stride < context
    has_memory = bool(getattr(model, "has_memory", False))
    if overlapping and (has_memory or isolate_documents):
        reason = "a model with memory, which reads every token once" if has_memory else "isolated documents"
        raise DataError(f"stride={stride} does not go with {reason}; leave it out")
    if has_memory and isolate_documents:
        raise DataError("isolated documents do not go with a model whose memory crosses them; turn one off")
    device = next(model.parameters()).device
    with _evaluating(model):
        if has_memory:
            yield from _with_memory(model, _first(tokens, limit).to(device), context)
            return
        if overlapping and stride is not None:
            batches = _overlapping_windows(_first(tokens, limit), context, stride, batch)
        else:
            batches = validation_batches(
                tokens, context=context, batch=batch, limit=limit, isolate_documents=isolate_documents
            )
        for piece in batches:
            ids = piece.ids.to(device)
            documents = piece.documents
            output = model(ids) if documents is None else model(ids, Layout.packed(documents.to(device)))
            yield _losses(output, piece.targets.to(device))


def _first(tokens: Tokens, limit: int | None) -> Int[Tensor, "N"]:
    """The tokens that predict the first `limit`, and those."""
    return torch.from_numpy(tokens.ids[: None if limit is None else limit + 1].astype(np.int64))


def _overlapping_windows(text: Int[Tensor, "N"], context: int, stride: int, batch: int) -> Iterator[Batch]:
    predicted = len(text) - 1
    windows = 1 + (predicted - context) // stride if predicted >= context else 0
    done = 0
    for first in range(0, windows, batch):
        last = min(first + batch, windows)
        ids = text[:-1].unfold(0, context, stride)[first:last]
        targets = text[1:].unfold(0, context, stride)[first:last].clone()
        targets[0 if first else 1 :, : context - stride] = IGNORED
        done = context + (last - 1) * stride
        yield Batch(ids.contiguous(), targets)
    if done < predicted:
        start = windows * stride
        targets = text[None, start + 1 :].clone()
        targets[:, : done - start] = IGNORED
        yield Batch(text[None, start:-1], targets)


def _with_memory(model: nn.Module, text: Int[Tensor, "N"], context: int) -> Iterator[Scored]:
    length = (len(text) - 1) // (MEMORY_STREAMS * context) * context
    whole = MEMORY_STREAMS * length
    if length:
        yield from _stream(model, text[:whole].view(-1, length), text[1 : whole + 1].view(-1, length), context)
    if whole < len(text) - 1:
        yield from _stream(model, text[None, whole:-1], text[None, whole + 1 :], context)


def _stream(model: nn.Module, ids: Int[Tensor, "B M"], targets: Int[Tensor, "B M"], context: int) -> Iterator[Scored]:
    state: Any = None
    for start in range(0, ids.shape[1], context):
        output = model(ids[:, start : start + context], state=state)
        state = output.state
        yield _losses(output, targets[:, start : start + context])


def _losses(output: Any, targets: Int[Tensor, "B T"]) -> Scored:
    """Cross-entropy of the scored targets in nats, in float64 so that summing a long text loses nothing."""
    flat = targets.flatten()
    losses = F.cross_entropy(output.logits.flatten(0, 1).float(), flat, reduction="none", ignore_index=IGNORED)
    scored = flat != IGNORED
    return losses.double()[scored], flat[scored], getattr(output, "depths", None)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
