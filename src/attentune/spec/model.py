"""`ModelSpec`: a whole model as one frozen value."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field, SerializeAsAny, model_validator

from attentune.spec.attention import AttentionSpec
from attentune.spec.halting import HaltingSpec
from attentune.spec.mechanism import Dims
from attentune.spec.ngrams import NgramSpec
from attentune.spec.slots import CarriedScore, CarriedValue, Mixer
from attentune.spec.text import format_value
from attentune.spec.value import Frozen

Probability = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@final
class LayerSpec(Frozen):
    """One layer: attention, what runs beside it or in its place, and attention to another sequence.

    y = attention(x) + sum of branches(x), then, where `cross` is given, attention from y to the context.
    A layer without attention (a linear or a recurrent one) holds its branches alone.
    """

    attention: AttentionSpec | None
    branches: tuple[SerializeAsAny[Mixer], ...] = ()
    cross: AttentionSpec | None = None

    def __str__(self) -> str:
        """The text form, which `layer(...)` reads back to an equal value."""
        parts = [] if self.attention is None else [str(self.attention)]
        if self.branches:
            parts.append("branches=" + " + ".join(map(format_value, self.branches)))
        if self.cross is not None:
            parts.append(f"cross=attention({self.cross})")
        return ", ".join(parts)

    @model_validator(mode="after")
    def _holds_something(self) -> LayerSpec:
        if self.attention is None and not self.branches:
            raise ValueError("a layer needs an attention, such as heads=8, or branches, such as branches=lstm")
        return self

    @model_validator(mode="after")
    def _cross_has_meaning(self) -> LayerSpec:
        if self.cross is not None:
            self.cross.check_cross()
        return self


@final
class FeedForwardSpec(Frozen):
    """The position-wise network of each layer.

    W2 f(W1 x) with f one of `gelu`, `gelu_tanh` (its approximation, as in GPT-2), `relu`, `silu`,
    `relu2`: relu(z)^2 (arXiv:2109.08668); or gated, W2 (f(W1 x) * W3 x) (arXiv:2002.05202):
    `swiglu` with silu, `geglu` with gelu, `geglu_tanh` with its approximation. `none` leaves it out.
    """

    name: Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh", "none"] = "gelu"
    hidden: int | None = Field(default=None, ge=1)  # None: 4 x width, where gated 8/3 x width (about equal parameters)

    @property
    def gated(self) -> bool:
        return self.name in ("swiglu", "geglu", "geglu_tanh")

    def hidden_width(self, width: int) -> int:
        if self.hidden is not None:
            return self.hidden
        return 4 * width if not self.gated else max(1, round(8 * width / 3 / 8) * 8)


@final
class ModelSpec(Frozen):
    """A language model: one stack of layers, or with `encoder` a decoder that looks at what another stack made.

    `layers` is a pattern that is repeated over the depth, so that windows and full layers can alternate.
    `share` names what is had in common: `position`, that slot's parameters by all layers (T5); `embedding`, the table
    of tokens by encoder and decoder.
    """

    vocab_size: int = Field(ge=1)
    width: int = Field(default=128, ge=1)
    depth: int = Field(default=4, ge=1)
    context: int = Field(default=64, ge=1)  # tokens a row may hold; learned positions end here
    layers: tuple[LayerSpec, ...] = Field(min_length=1)
    feed_forward: FeedForwardSpec = FeedForwardSpec()
    position: Literal["none", "sinusoidal", "learned"] = "none"  # what is added to the embeddings
    norm: Literal["layer", "rms", "batch"] = "layer"
    norm_placement: Literal["pre", "post"] = "pre"
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: 1e-5, for rms 1e-6
    ngrams: NgramSpec | None = None  # pieces of text that have vectors of their own; None: tokens alone
    embedding_norm: bool = False  # normalise what enters the first layer (BERT, BLOOM)
    bias: bool = False  # in linear layers and LayerNorm
    tie_embeddings: bool = True
    head_transform: bool = False  # norm(f(W h + b)) before the logits, f of the feed-forward network (BERT)
    head_bias: bool = False  # a number for each token of the vocabulary, added to the logits
    scale_embeddings: bool = False  # x sqrt(width), as in the Transformer of 2017
    output_init: Literal["scaled", "zero"] = "scaled"  # of projections back into the residual stream
    dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    logit_factor: Factor | None = None  # None: 1, but 1/sqrt(width) where the head is a scaled embedding
    logit_soft_cap: Factor | None = None
    share: tuple[Literal["position", "embedding"], ...] = ()
    halting: HaltingSpec | None = None  # whether tokens may halt before the last layer; None: never
    encoder: ModelSpec | None = None  # what the cross-attentions of this model look at; None: what they are given

    @model_validator(mode="after")
    def _layers_fit(self) -> ModelSpec:
        if len(self.layers) > self.depth:
            raise ValueError(f"layers names {len(self.layers)} different layers, more than depth={self.depth}")
        if self.head_transform and self.feed_forward.name == "none":
            raise ValueError("head_transform needs the activation of a feed-forward network, got feed_forward=none")
        attentions = self.attentions
        crosses = tuple(layer.cross for layer in self.layers if layer.cross is not None)
        for attention, cross in (*((one, False) for one in attentions), *((one, True) for one in crosses)):
            source = self.source_width if cross else self.width
            dims = attention.heads.dims(
                width=self.width, source_width=source, depth=self.depth, bias=self.bias, cross=cross
            )
            for _, _, value in attention.values():
                value.parameters(dims)  # refuses sizes that it cannot be computed with
        for mixer in (mixer for layer in self.layers for mixer in layer.branches):
            mixer.parameters(self.branch_dims)
        positions = {attention.position for attention in attentions}
        if "position" in self.share and (len(positions) > 1 or len({x.heads.heads for x in attentions}) > 1):
            raise ValueError("share=position needs the same position and number of heads in every layer")
        if "position" in self.share and (None in positions or not positions):
            raise ValueError("share=position needs a position in the layers' attention, got none")
        if self.position == "learned" and any(attention.memory is not None for attention in attentions):
            raise ValueError(
                "position=learned ends at the context, but a memory goes on beyond it: "
                "use position=none with a relative position in the attention, such as rotary"
            )
        if len({attention.memory for attention in attentions}) > 1:
            raise ValueError("a model remembers segments in every layer or in none: every layer needs the same memory")
        shapes = {attention.heads for attention in attentions}
        for slot, of_kind, what in (("scores", CarriedScore, "scores"), ("combine", CarriedValue, "values")):
            carried = [[v for v in getattr(x, slot) if isinstance(v, of_kind)] for x in attentions]
            if any(carried) and (not all(carried) or len(shapes) > 1):
                name = next(values[0].kind for values in carried if values)
                raise ValueError(f"{name} hands {what} from layer to layer: every layer needs it, with equal heads")
            if of_kind is CarriedScore and any(carried) and len({x.similarity for x in attentions}) > 1:
                raise ValueError("residual_scores adds scores of one scale: every layer needs the same similarity")
        if self.halting is not None:
            self._check_halting()
        if self.ngrams is not None and any(attention.mask.lookahead is not None for attention in attentions):
            raise ValueError(
                "ngrams are for models that see a text whole: text that is made token by token is not looked back on; "
                "use mask=full in the layers, or leave ngrams out"
            )
        self._check_encoder(crosses)
        return self

    def _check_encoder(self, crosses: tuple[AttentionSpec, ...]) -> None:
        encoder = self.encoder
        if encoder is None:
            if "embedding" in self.share:
                raise ValueError("share=embedding is for an encoder and its decoder, and this model has no encoder")
            return
        if not crosses:
            raise ValueError("nothing looks at the encoder: a layer needs cross=attention(heads=...)")
        if encoder.encoder is not None or any(layer.cross is not None for layer in encoder.layers):
            raise ValueError("an encoder looks at its own tokens alone: it has no encoder and no cross-attention")
        if any(attention.memory is not None for attention in (*encoder.attentions, *self.attentions)):
            raise ValueError("an encoder and its decoder see whole rows: neither takes a memory of earlier segments")
        if "embedding" in self.share and (encoder.vocab_size, encoder.width) != (self.vocab_size, self.width):
            raise ValueError(
                f"share=embedding needs one vocabulary and width, got {encoder.vocab_size} x {encoder.width} in the "
                f"encoder and {self.vocab_size} x {self.width} in the decoder"
            )

    @property
    def source_width(self) -> int:
        """The width of what cross-attention looks at."""
        return self.width if self.encoder is None else self.encoder.width

    def _check_halting(self) -> None:
        if self.depth < 2:
            raise ValueError("halting spares deeper layers: it needs a depth of at least 2, got 1")
        for attention in self.attentions:
            if attention.memory is not None:
                raise ValueError(
                    f"halting leaves out tokens in deeper layers, of which memory={attention.memory.kind} "
                    "would have nothing to remember"
                )
            if carried := [score.kind for score in attention.scores if isinstance(score, CarriedScore)]:
                raise ValueError(
                    f"halting leaves out tokens in deeper layers, but {carried[0]} adds the scores of all layers "
                    "key by key: use one of them"
                )

    @property
    def branch_dims(self) -> Dims:
        """The sizes that branches see: a mixer brings its own heads."""
        width = self.width
        return Dims(
            width=width,
            heads=1,
            groups=1,
            head_width=width,
            value_width=width,
            source_width=width,
            depth=self.depth,
            bias=self.bias,
        )

    @property
    def attentions(self) -> tuple[AttentionSpec, ...]:
        """The attentions of the pattern; layers that hold branches alone have none."""
        return tuple(layer.attention for layer in self.layers if layer.attention is not None)

    def layer(self, index: int) -> LayerSpec:
        """The spec of layer `index`, counted from 0."""
        return self.layers[index % len(self.layers)]
