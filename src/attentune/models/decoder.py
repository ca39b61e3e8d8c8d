"""A decoder-only language model from a `ModelSpec`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import nn
from torch.nn.functional import linear

from attentune.kernels.layout import Layout
from attentune.layers.attention import OUTPUT
from attentune.layers.head import HeadTransform
from attentune.layers.state import State
from attentune.models.transformer import Extra, Transformer, last_norm
from attentune.shapes import Float, Int, Tensor
from attentune.spec.model import ModelSpec


@dataclass
class ModelOutput:
    """Logits, auxiliary losses to add to the loss, the state to go on with, and a layer's wanted outputs each.

    `hidden` is what the logits are made of, after the last norm. For the others see `Hidden`.
    """

    logits: Float[Tensor, "B T N"]
    losses: dict[str, Tensor] = field(default_factory=dict)
    state: State | None = None
    attention: list[Extra] = field(default_factory=list)
    hidden: Float[Tensor, "B T E"] | None = None
    depths: Int[Tensor, "B T"] | None = None


@final
class Decoder(Transformer):
    """Tokens to the logits of the next token; with a mask that shows later keys, of the token itself (as BERT)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.head_transform: HeadTransform | None = None
        if spec.head_transform:
            self.head_transform = HeadTransform(spec.feed_forward, width=spec.width, norm=last_norm(spec))
        self.head: nn.Parameter | None = None
        if not spec.tie_embeddings:
            self.head = nn.Parameter(torch.empty(spec.vocab_size, spec.width).normal_(0.0, 0.02))
            self.head.role = "head"  # type: ignore[attr-defined]
        self.head_bias = nn.Parameter(torch.zeros(spec.vocab_size)) if spec.head_bias else None
        if self.head_bias is not None:
            self.head_bias.weight_decay = False  # type: ignore[attr-defined]
        usual = spec.width**-0.5 if spec.tie_embeddings and spec.scale_embeddings else 1.0
        self.logit_factor = usual if spec.logit_factor is None else spec.logit_factor

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        layout: Layout | None = None,
        *,
        state: State | None = None,
        context: Float[Tensor, "B K E"] | None = None,
        context_valid: Tensor | None = None,
        context_finite: bool = False,
        wanted: frozenset[str] = OUTPUT,
    ) -> ModelOutput:
        """Logits for every token of `ids`; the arguments are those of `hidden_states`."""
        given = self.hidden_states(
            ids,
            layout,
            state=state,
            context=context,
            context_valid=context_valid,
            context_finite=context_finite,
            wanted=wanted,
        )
        return ModelOutput(
            self.logits(given.x), given.losses, given.state, given.attention, hidden=given.x, depths=given.depths
        )

    def logits(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B T N"]:
        """What the head makes of hidden states."""
        if self.head_transform is not None:
            x = self.head_transform(x)
        if self.logit_factor != 1.0:
            x = x * self.logit_factor
        logits = linear(x, self.embedding.table if self.head is None else self.head, self.head_bias)
        if (cap := self.spec.logit_soft_cap) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits
