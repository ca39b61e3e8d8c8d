"""The model that restores hidden tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from attentune.kernels.layout import Layout
from attentune.models.decoder import Decoder
from attentune.shapes import Float, Int, Tensor
from attentune.spec.model import ModelSpec


@dataclass
class Restored:
    """Logits of `N` places in each of `R` rows, losses to add, the vectors of all tokens."""

    logits: Float[Tensor, "R N V"]
    losses: dict[str, Tensor]
    hidden: Float[Tensor, "B T E"]
    depths: Int[Tensor, "B T"] | None = None


@final
class Restorer(nn.Module):
    """A stack of layers with the vocabulary's logits on top: head(trunk(ids))."""

    has_memory = False

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = Decoder(spec)
        self.halting = self.trunk.halting

    def bind(self, **choice: object) -> None:
        """Choose the kernels of every attention, as `Transformer.bind`."""
        self.trunk.bind(**choice)  # type: ignore[arg-type]

    def forward(
        self, ids: Int[Tensor, "B T"], layout: Layout | None = None, *, places: Int[Tensor, " N"] | None = None
    ) -> Restored:
        """Logits [1 N V] of these `places` of the flattened rows; [B T V] of all tokens where None."""
        given = self.trunk.hidden_states(ids, layout)
        x: Tensor = given.x
        if places is not None:
            x = x.flatten(0, 1).index_select(0, places)[None]
        return Restored(self.trunk.logits(x), given.losses, hidden=given.x, depths=given.depths)
