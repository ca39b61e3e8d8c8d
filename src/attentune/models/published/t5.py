"""T5 and T5 1.1 (arXiv:1910.10683, arXiv:2002.05202): an encoder, and a decoder that looks at its hidden states.

    encoder   heads=8, similarity=scaled_dot(scale=1.0), position=t5(bidirectional=true)
    decoder   heads=8, similarity=scaled_dot(scale=1.0), position=t5, mask=causal,
              cross=attention(heads=8, similarity=scaled_dot(scale=1.0))

    logits = EncoderDecoder(model_spec(config))(target, source=source).logits

The scores are not divided by the root of the head width, and all layers share one table of positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attentune.mechanisms import layer
from attentune.models.published import _encoder_decoder
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec

NETWORKS = {"relu": "relu", "gated-gelu": "geglu_tanh", "gelu_new": "gelu_tanh", "gated-silu": "swiglu", "gelu": "gelu"}
NAMES = ("q", "k", "v", "o")


def encoder_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The encoder that a `config.json` of `model_type` t5 describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("t5", config)
    read.skip("num_decoder_layers", "scale_decoder_outputs", "tie_word_embeddings")
    heads, similarity = _heads(read), "similarity=scaled_dot(scale=1.0)"
    line = f"heads={heads}, {similarity}, position={_position(read, ', bidirectional=true')}"
    return _model(read, line, depth=read.size("num_layers"), tied=True, factor=None)


def decoder_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The decoder that a `config.json` of `model_type` t5 describes.

    Where the embeddings are the head as well, the logits are divided by the root of the width; T5 1.1 is not.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("t5", config)
    tied = read.flag("tie_word_embeddings", True)
    scaled = read.flag("scale_decoder_outputs", tied)
    heads, similarity = _heads(read), "similarity=scaled_dot(scale=1.0)"
    cross = f"cross=attention(heads={heads}, {similarity})"
    line = f"heads={heads}, {similarity}, position={_position(read)}, mask=causal, {cross}"
    depth = read.size("num_decoder_layers", read.size("num_layers"))
    return _model(read, line, depth=depth, tied=tied, factor=read.size("d_model") ** -0.5 if scaled else None)


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Both halves as one model with one table of tokens, for `EncoderDecoder`.

    Raises:
        SpecError: a value that is not supported.
    """
    decoder = decoder_spec(config)
    return decoder.replace(encoder=encoder_spec(config), share=(*decoder.share, "embedding"))


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The parameters of `model_spec`'s model from the tensors of `T5ForConditionalGeneration`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    assert spec.encoder is not None
    return _encoder_decoder.joined(encoder_weights(state, spec.encoder), decoder_weights(state, spec), spec)


def encoder_weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The encoder's parameters from the tensors of `T5ForConditionalGeneration`.

    Raises:
        CheckpointError: a tensor of the encoder is missing, unknown, or of another shape than the spec needs.
    """
    read = State("t5", state, without=(r"decoder\..*", r"lm_head\..*"))
    read.same("encoder.embed_tokens.weight", "shared.weight")
    return read.finish(_stack(read, spec, "encoder", cross=False), spec)


def decoder_weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The decoder's parameters from the tensors of `T5ForConditionalGeneration`.

    Raises:
        CheckpointError: a tensor of the decoder is missing, unknown, or of another shape than the spec needs.
    """
    # The first checkpoints hold a table of positions of the first cross-attention, which nothing reads.
    unused = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    read = State("t5", state, without=(r"encoder\..*", unused))
    read.same("decoder.embed_tokens.weight", "shared.weight")
    mapped = _stack(read, spec, "decoder", cross=True)
    return read.finish(mapped | _encoder_decoder.head(read, spec, "lm_head.weight", "shared.weight"), spec)


def _heads(read: Config) -> str:
    heads, own = read.size("num_heads"), read.size("d_kv")
    return f"{heads}" if heads * own == read.size("d_model") else f"multi_head({heads}, head_width={own})"


def _position(read: Config, more: str = "") -> str:
    buckets = read.size("relative_attention_num_buckets", 32)
    return f"t5(buckets={buckets}, max_distance={read.size('relative_attention_max_distance', 128)}{more})"


def _model(read: Config, line: str, *, depth: int, tied: bool, factor: float | None) -> ModelSpec:
    read.only("is_decoder", False)
    read.skip("dropout_rate", "dense_act_fn", "is_gated_act", "n_positions")
    spec = ModelSpec(
        vocab_size=read.size("vocab_size"),
        width=read.size("d_model"),
        depth=depth,
        context=512,  # what it was trained on: positions are relative, and have no longest row
        layers=(layer(line),),
        feed_forward=FeedForwardSpec(name=read.choice("feed_forward_proj", NETWORKS, "relu"), hidden=read.size("d_ff")),
        norm="rms",
        norm_epsilon=read.number("layer_norm_epsilon", 1e-6),
        tie_embeddings=tied,
        logit_factor=factor,
        share=("position",),
    )
    read.finish()
    return spec


def _stack(read: State, spec: ModelSpec, half: str, *, cross: bool) -> dict[str, Tensor]:
    table = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    mapped = {
        "embedding.table": read.take("shared.weight"),
        "norm.gain": read.take(f"{half}.final_layer_norm.weight"),
        "layers.0.attention.position.0.table": read.take(table),
    }
    for index in range(spec.depth):
        theirs, ours = f"{half}.block.{index}.layer.", f"layers.{index}."
        mapped |= _encoder_decoder.attention(
            read, f"{theirs}0.SelfAttention.", f"{ours}attention.heads.0.", NAMES, bias=False, cross=False
        )
        norms = {"attention_norm": 0, "feed_forward_norm": 2 if cross else 1}
        if cross:
            mapped |= _encoder_decoder.attention(
                read, f"{theirs}1.EncDecAttention.", f"{ours}cross.heads.0.", NAMES, bias=False, cross=True
            )
            norms["cross_norm"] = 1
        for name, place in norms.items():
            mapped[f"{ours}{name}.gain"] = read.take(f"{theirs}{place}.layer_norm.weight")
        network = f"{theirs}{norms['feed_forward_norm']}.DenseReluDense."
        rows = ("wi_0", "wi_1") if spec.feed_forward.gated else ("wi",)
        mapped[f"{ours}feed_forward.up"] = torch.cat([read.take(f"{network}{name}.weight") for name in rows])
        mapped[f"{ours}feed_forward.down"] = read.take(f"{network}wo.weight")
    return mapped
