"""What the descendants of BERT share: an encoder with norms after each part, and a head that restores masked tokens."""

from __future__ import annotations

import torch

from attentune.mechanisms import layer
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
WITHOUT = (  # the pooler and the head for the next sentence are other tasks' own
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\..*",
    r"cls\.seq_relationship\..*",
)


def model(config: Config, lines: list[str], *, context: int, scale_embeddings: bool = False) -> ModelSpec:
    """The model around the attentions `lines`, one for each layer."""
    if len(set(lines)) == 1:
        lines = lines[:1]
    config.only("is_decoder", False)
    config.only("add_cross_attention", False)
    config.only("position_embedding_type", "absolute")
    config.size("type_vocab_size", 2)
    pooler = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head", "type")
    config.skip("directionality", *(f"pooler_{name}" for name in pooler))  # notes of how it was trained
    spec = ModelSpec(
        vocab_size=config.size("vocab_size"),
        width=config.size("hidden_size"),
        depth=config.size("num_hidden_layers"),
        context=context,
        layers=tuple(map(layer, lines)),
        feed_forward=FeedForwardSpec(
            name=config.choice("hidden_act", ACTIVATIONS, "gelu"), hidden=config.size("intermediate_size")
        ),
        position="learned",
        norm="layer",
        norm_placement="post",
        norm_epsilon=config.number("layer_norm_eps", 1e-12),
        embedding_norm=True,
        bias=True,
        tie_embeddings=config.flag("tie_word_embeddings", True),
        scale_embeddings=scale_embeddings,
        logit_factor=1.0 if scale_embeddings else None,
        head_transform=True,
        head_bias=True,
    )
    config.finish()
    return spec


def embeddings(state: State, *, before: int = 0) -> dict[str, Tensor]:
    """Tokens and places; the vector of the first token type, which a text of one kind has everywhere, is in the places.

    `before` rows of their table belong to no place.
    """
    kinds = state.take("embeddings.token_type_embeddings.weight")
    return {
        "embedding.table": state.take("embeddings.word_embeddings.weight"),
        "embedding.places": state.take("embeddings.position_embeddings.weight")[before:] + kinds[0],
        **_pair(state, "embedding.norm.gain", "embedding.norm.bias", "embeddings.LayerNorm"),
    }


def layers(state: State, spec: ModelSpec) -> dict[str, Tensor]:
    mapped = {}
    for index in range(spec.depth):
        theirs, ours = f"encoder.layer.{index}.", f"layers.{index}."
        for end, suffix in (("weight", ""), ("bias", "_bias")):
            parts = [state.take(f"{theirs}attention.self.{name}.{end}") for name in ("query", "key", "value")]
            mapped[f"{ours}attention.heads.0.qkv{suffix}"] = torch.cat(parts)
        for name, source in {
            "attention.heads.0.out": "attention.output.dense",
            "feed_forward.up": "intermediate.dense",
            "feed_forward.down": "output.dense",
        }.items():
            mapped |= _pair(state, f"{ours}{name}", f"{ours}{name}_bias", f"{theirs}{source}")
        for name, source in {
            "attention_norm": "attention.output.LayerNorm",
            "feed_forward_norm": "output.LayerNorm",
        }.items():
            mapped |= _pair(state, f"{ours}{name}.gain", f"{ours}{name}.bias", f"{theirs}{source}")
    return mapped


def head(state: State, spec: ModelSpec, *, dense: str, norm: str, decoder: str, bias: str) -> dict[str, Tensor]:
    """The head for masked tokens, whose parts the descendants call differently."""
    mapped = _pair(state, "head_transform.weight", "head_transform.bias", dense)
    mapped |= _pair(state, "head_transform.norm.gain", "head_transform.norm.bias", norm)
    mapped["head_bias"] = state.take(bias)
    state.same(f"{decoder}.bias", bias)
    if spec.tie_embeddings:
        state.same(f"{decoder}.weight", "embeddings.word_embeddings.weight")
    else:
        mapped["head"] = state.take(f"{decoder}.weight")
    return mapped


def _pair(state: State, weight: str, bias: str, source: str) -> dict[str, Tensor]:
    return {weight: state.take(f"{source}.weight"), bias: state.take(f"{source}.bias")}
