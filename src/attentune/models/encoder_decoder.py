"""An encoder, and a decoder whose cross-attention looks at what the encoder made (arXiv:1706.03762)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from attentune.errors import SpecError
from attentune.kernels.layout import Layout
from attentune.layers.attention import OUTPUT
from attentune.layers.state import State
from attentune.models.decoder import Decoder, ModelOutput
from attentune.models.encoder import Encoder
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.model import ModelSpec


@dataclass
class Source:
    """What the encoder made of a batch of rows, and which places are no padding (None: all)."""

    hidden: Float[Tensor, "B K E"]
    valid: Bool[Tensor, "B K"] | None
    losses: dict[str, Tensor]

    def rows(self, chosen: Int[Tensor, "N"]) -> Source:
        """Some rows, in that order; one may come several times."""
        valid = None if self.valid is None else self.valid.index_select(0, chosen)
        return Source(self.hidden.index_select(0, chosen), valid, self.losses)


@final
class EncoderDecoder(nn.Module):
    """Source tokens to vectors, and target tokens, with these before their eyes, to the logits of the next one.

    `spec.encoder` describes the encoder, `spec` the decoder. Where `spec.share` names `embedding`, both have one table.
    """

    has_memory = False

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        if spec.encoder is None:
            raise SpecError("an encoder-decoder needs the spec of its encoder: ModelSpec(encoder=ModelSpec(...), ...)")
        self.spec = spec
        self.encoder, self.decoder = Encoder(spec.encoder), Decoder(spec)
        if "embedding" in spec.share:
            self.encoder.embedding.table = self.decoder.embedding.table
        self.halting = self.encoder.halting or self.decoder.halting

    def bind(self, **choice: object) -> None:
        """Choose the kernels of every attention, as `Transformer.bind`."""
        self.encoder.bind(**choice)  # type: ignore[arg-type]
        self.decoder.bind(**choice)  # type: ignore[arg-type]

    def start(self, batch: int) -> State:
        """The decoder's state before the first target token."""
        return self.decoder.start(batch)

    def encode(self, source: Int[Tensor, "B K"], layout: Layout | None = None) -> Source:
        """What the encoder makes of the source; padding is told by `layout`."""
        given = self.encoder(source, layout)
        valid = None if layout is None else layout.query.valid
        return Source(given.x, None if valid is None else valid.expand(source.shape), given.losses)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        layout: Layout | None = None,
        *,
        source: Int[Tensor, "B K"] | None = None,
        source_layout: Layout | None = None,
        encoded: Source | None = None,
        state: State | None = None,
        wanted: frozenset[str] = OUTPUT,
    ) -> ModelOutput:
        """Logits for every token of `ids`, given the tokens of the source or what `encode` made of them.

        With a state, only its first call needs either.
        """
        if source is not None and encoded is not None:
            raise SpecError("give the source's tokens or what encode() made of them, not both")
        if source is not None:
            encoded = self.encode(source, source_layout)
        if encoded is None:
            return self.decoder(ids, layout, state=state, wanted=wanted)  # type: ignore[no-any-return]
        output: ModelOutput = self.decoder(
            ids,
            layout,
            state=state,
            context=encoded.hidden,
            context_valid=encoded.valid,
            context_finite=True,  # made by the encoder, whose padding is tokens too
            wanted=wanted,
        )
        for name, loss in encoded.losses.items():
            output.losses[name] = output.losses[name] + loss if name in output.losses else loss
        return output
