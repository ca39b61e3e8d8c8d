"""Small encoder-decoders in float64, with every kind of part that an encoder or a decoder may have."""

from __future__ import annotations

import torch

from attentune.mechanisms import layer
from attentune.models.build import build_encoder_decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.model import ModelSpec
from models.language import VOCABULARY, WIDTH

ENCODER = ModelSpec(vocab_size=VOCABULARY, width=WIDTH, depth=2, context=32, layers=(layer("heads=2"),))
DECODER = "heads=2, mask=causal, cross=attention(heads=2)"
PAIRS: dict[str, tuple[str, str, dict[str, object]]] = {
    "plain": ("heads=2", DECODER, {"position": "sinusoidal"}),
    "shared table": ("heads=2", DECODER, {"position": "learned", "share": ("embedding",), "bias": True}),
    "post-norm of 2017": (
        "heads=2",
        DECODER,
        {"position": "sinusoidal", "norm_placement": "post", "scale_embeddings": True, "bias": True},
    ),
    "relative": (
        "heads=2, position=t5(buckets=8, max_distance=16, bidirectional=true)",
        "heads=2, position=t5(buckets=8, max_distance=16), mask=causal, cross=attention(heads=2/1, scores=qk_norm)",
        {"norm": "rms", "tie_embeddings": False},
    ),
    "long range": (
        "heads=2, position=rotary, mask=window(3), branches=layer_norm + lstm",
        "heads=2, position=rotary, mask=causal, branches=layer_norm + lstm, cross=attention(heads=2)",
        {},
    ),
    "selected": (
        "heads=2, position=rotary",
        "heads=2/1, mask=causal, selector=top_k_blocks(2, 2), cross=attention(heads=2, normalizer=entmax15)",
        {},
    ),
    "latent": (
        "heads=latent(2, 6, rotary=4), position=rotary",
        "heads=latent(2, 6, rotary=4), position=rotary, mask=window(4), cross=attention(heads=2, combine=gate)",
        {},
    ),
    "across layers": ("heads=2", "heads=2, mask=causal, scores=residual_scores, cross=attention(heads=2)", {}),
    "halting encoder and decoder": ("heads=2", DECODER, {"halting": {"epsilon": 0.4}, "position": "sinusoidal"}),
}
DECODER_ALONE = ("share", "tie_embeddings")


def spec_of(name: str) -> ModelSpec:
    """The model of a pair of layers; what its changes say holds for both halves."""
    encoder, decoder, changes = PAIRS[name]
    common = {key: held for key, held in changes.items() if key not in DECODER_ALONE}
    return ModelSpec(
        vocab_size=VOCABULARY,
        width=WIDTH,
        depth=2,
        context=32,
        layers=(layer(decoder),),
        encoder=ENCODER.replace(layers=(layer(encoder),), **common),
        **changes,  # type: ignore[arg-type]
    )


def encoder_decoder(name: str, *, seed: int = 0) -> EncoderDecoder:
    """The pair in float64, moved away from its small first weights so that every part matters."""
    model = build_encoder_decoder(spec_of(name), seed=seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model.eval()
