"""From logits to the next token."""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import Field

from attentune.errors import SpecError
from attentune.shapes import Float, Int, Tensor
from attentune.spec.value import Frozen


@final
class Sampling(Frozen):
    """How the next token is drawn. The limits apply in this order: temperature, `top_k`, `top_p`.

    `top_p` keeps the likeliest tokens until they hold that share (arXiv:1904.09751). Equal seeds give equal text.
    """

    greedy: bool = False  # always the likeliest token; nothing else matters then
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0


def probabilities(logits: Float[Tensor, "B N"], sampling: Sampling) -> Float[Tensor, "B N"]:
    """What `sampling` draws from: sums to 1, exactly 0 for every token it leaves out."""
    # From the largest one down, and in float64, so that not even the smallest temperature overflows.
    logits = logits.double() - logits.double().amax(-1, keepdim=True)
    logits = (logits / sampling.temperature).float()
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = torch.sort(logits.softmax(-1), dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # what likelier tokens hold already
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(drop, float("-inf"))
    return logits.softmax(-1)


def draw(logits: Float[Tensor, "B N"], sampling: Sampling, generator: torch.Generator) -> Int[Tensor, "B"]:
    """The next token of each row; `SpecError` where a logit is not a number."""
    if bool(logits.isnan().any()):
        raise SpecError("the model's logits are not numbers (NaN): its weights are broken or its training diverged")
    if sampling.greedy:
        return logits.argmax(-1)
    return torch.multinomial(probabilities(logits, sampling), 1, generator=generator)[:, 0]
