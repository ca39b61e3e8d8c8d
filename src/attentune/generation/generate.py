"""Continuing prompts with a decoder, token by token on its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch

from attentune.errors import SpecError
from attentune.generation.sampling import Sampling, draw
from attentune.kernels.layout import Layout
from attentune.models.decoder import Decoder
from attentune.shapes import Bool, Int, Tensor


@runtime_checkable
class Vocabulary(Protocol):
    """What text generation needs of a tokenizer."""

    @property
    def end_of_text(self) -> int | None: ...

    def encode(self, text: str) -> Iterable[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@torch.inference_mode()
def generate(
    model: Decoder,
    prompt: Int[Tensor, "B T"],
    *,
    tokens: int,
    sampling: Sampling | None = None,
    valid: Bool[Tensor, "B T"] | None = None,
    end: int | None = None,
    limit: int | None = None,
    on_token: Callable[[Int[Tensor, "B"]], None] | None = None,
) -> Int[Tensor, "B N"]:
    """Up to `tokens` new tokens for each row of `prompt`.

    Args:
        model: in any mode; it is left in the mode it was in.
        prompt: at least one token a row.
        valid: True on the real tokens of a padded prompt (padding may stand on either side).
        end: a row that draws it is finished, and filled up with it; generation stops when all rows are.
        limit: tokens that the model looks back on at most; by default its context. When they are used up, it goes on
            from the newer half of them, or from as many as a prefix mask shows to every token. A model with memory
            forgets by itself and takes no limit.
        on_token: called with each step's new tokens.

    Raises:
        SpecError: the attention shows later keys, so that no step-by-step decoding would be right; a limit for a model
            with memory; logits that are not numbers.
    """
    if tokens < 1:
        raise SpecError(f"tokens must be at least 1, got {tokens}")
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise SpecError(f"a prompt needs at least one token in each row, got shape {tuple(prompt.shape)}")
    was_training = model.training
    model.eval()
    try:
        rows = list(_steps(model, prompt, tokens, sampling or Sampling(), valid, end, limit, on_token))
    finally:
        model.train(was_training)
    return torch.stack(rows, 1)


def _steps(
    model: Decoder,
    prompt: Tensor,
    tokens: int,
    sampling: Sampling,
    valid: Tensor | None,
    end: int | None,
    limit: int | None,
    on_token: Callable[[Tensor], None] | None,
) -> Iterator[Tensor]:
    if limit is not None and model.has_memory:
        raise SpecError(f"a model with memory takes no limit, got {limit}: its memory decides what it looks back on")
    limit = model.spec.context if limit is None else limit
    if limit < 2:
        raise SpecError(f"limit must be at least 2 tokens, got {limit}")
    generator = torch.Generator(prompt.device).manual_seed(sampling.seed)
    known, real = prompt, valid if valid is not None else torch.ones_like(prompt, dtype=torch.bool)
    if bool((real[:, :-1] & ~real[:, 1:]).any()):  # what is cut away in the end stands at the left: padding first
        order = real.int().argsort(dim=1, stable=True)
        known, real = known.gather(1, order), real.gather(1, order)
    if not model.has_memory:
        known, real = known[:, -limit:], real[:, -limit:]
    state = model.start(prompt.shape[0])
    layout = None if bool(real.all()) else Layout.padded(real)
    output = model(known, layout, state=state)
    logits = _last_real(output.logits, real)
    finished = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
    for step in range(tokens):
        token = draw(logits, sampling, generator)
        if end is not None:
            token = torch.where(finished, end, token)
            finished = finished | (token == end)
        yield token
        if on_token is not None:
            on_token(token)
        if bool(finished.all()) or step + 1 == tokens:
            return
        known, real = torch.cat([known, token[:, None]], 1), torch.cat([real, torch.ones_like(real[:, :1])], 1)
        if not model.has_memory and known.shape[1] > limit:
            kept = max(limit // 2, *(attention.mask.lookahead or 0 for attention in model.spec.attentions))
            known, real = known[:, -kept:], real[:, -kept:]
            state = model.start(prompt.shape[0])
            layout = None if bool(real.all()) else Layout.padded(real)
            logits = _last_real(model(known, layout, state=state).logits, real)
        else:
            logits = model(token[:, None], state=state).logits[:, -1]


def _last_real(logits: Tensor, real: Tensor) -> Tensor:
    """The logits at the last real token of each row."""
    place = torch.arange(real.shape[1], device=real.device).masked_fill(~real, -1).amax(-1).clamp(min=0)
    return logits[torch.arange(logits.shape[0], device=logits.device), place]


def complete(
    model: Decoder,
    tokenizer: Vocabulary,
    prompt: str,
    *,
    tokens: int = 200,
    sampling: Sampling | None = None,
    limit: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """The text that follows `prompt`; it ends before an end of text. `on_text` receives it piece by piece.

    An empty prompt starts from the end of text, or where the tokenizer has none from a line break.
    """
    device = next(model.parameters()).device
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        end = tokenizer.end_of_text
        ids = [end] if end is not None else [int(i) for i in tokenizer.encode("\n")]
    seen: list[int] = []
    told = ""

    def tell(token: Tensor) -> None:
        nonlocal told
        seen.append(int(token[0]))
        text = tokenizer.decode(seen)
        if on_text is not None and len(text) > len(told) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            on_text(text[len(told) :])
            told = text

    made = generate(
        model,
        torch.tensor([ids], device=device),
        tokens=tokens,
        sampling=sampling,
        end=tokenizer.end_of_text,
        limit=limit,
        on_token=tell if on_text is not None else None,
    )
    return tokenizer.decode(made[0].tolist())
