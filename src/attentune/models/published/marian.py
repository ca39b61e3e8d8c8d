"""The Transformer of 2017 (arXiv:1706.03762), as the translation models of Marian are published.

    encoder   heads=8
    decoder   heads=8, mask=causal, cross=attention(heads=8)

    logits = EncoderDecoder(model_spec(config))(target, source=source).logits

Norms after each part, sinusoidal positions, embeddings times the root of the width. They keep the sines in the first
half of the columns and the cosines in the second, the paper and we alternate: the columns of the model are moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from attentune.mechanisms import layer
from attentune.models.published import _encoder_decoder
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec

ACTIVATIONS = {"relu": "relu", "swish": "silu", "silu": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh"}
NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")
READERS = frozenset({"qkv", "q", "kv", "up"})  # matrices [rows, E]
WRITERS = frozenset({"out", "out_bias", "down", "down_bias"})  # matrices [E, columns] and biases [E]


def encoder_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The encoder that a `config.json` of `model_type` marian describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("marian", config)
    return _model(read, "encoder", f"heads={read.size('encoder_attention_heads')}", read.size("vocab_size"))


def decoder_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The decoder that a `config.json` of `model_type` marian describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("marian", config)
    heads = read.size("decoder_attention_heads")
    vocabulary = read.size("decoder_vocab_size", read.size("vocab_size"))
    return _model(read, "decoder", f"heads={heads}, mask=causal, cross=attention(heads={heads})", vocabulary)


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Both halves as one model, for `EncoderDecoder`.

    Raises:
        SpecError: a value that is not supported.
    """
    shared = Config("marian", config).flag("share_encoder_decoder_embeddings", True)
    return decoder_spec(config).replace(encoder=encoder_spec(config), share=("embedding",) if shared else ())


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The parameters of `model_spec`'s model from the tensors of `MarianMTModel`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    assert spec.encoder is not None
    return _encoder_decoder.joined(encoder_weights(state, spec.encoder), decoder_weights(state, spec), spec)


def encoder_weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The encoder's parameters from the tensors of `MarianMTModel`.

    Raises:
        CheckpointError: a tensor of the encoder is missing, unknown, or of another shape than the spec needs.
    """
    others = (r"decoder\..*", r"lm_head\..*", r"final_logits_bias", r"encoder\.embed_positions\.weight")
    read = State("marian", state, prefix="model.", without=others)
    return read.finish(_alternate(_stack(read, spec, "encoder"), spec.width), spec)


def decoder_weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The decoder's parameters from the tensors of `MarianMTModel`.

    Raises:
        CheckpointError: a tensor of the decoder is missing, unknown, or of another shape than the spec needs.
    """
    others = (r"encoder\..*", r"decoder\.embed_positions\.weight")
    read = State("marian", state, prefix="model.", without=others)
    mapped = _stack(read, spec, "decoder")
    mapped |= _encoder_decoder.head(read, spec, "lm_head.weight", _table(read, "decoder"))
    mapped["head_bias"] = read.take("final_logits_bias")[0]
    return read.finish(_alternate(mapped, spec.width), spec)


def _model(read: Config, half: Literal["encoder", "decoder"], line: str, vocabulary: int) -> ModelSpec:
    other = "decoder" if half == "encoder" else "encoder"
    read.skip(*(f"{other}_{name}" for name in ("layers", "ffn_dim", "attention_heads")), "decoder_vocab_size")
    read.skip(
        "vocab_size", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std", "num_hidden_layers"
    )
    read.skip(
        "share_encoder_decoder_embeddings", "extra_pos_embeddings", "add_bias_logits", "static_position_embeddings"
    )
    read.skip("bad_words_ids", "max_source_positions", "max_target_positions")
    read.only("is_decoder", False)
    for older in ("normalize_before", "normalize_embedding", "add_final_layer_norm"):
        read.only(older, False)
    tied = read.flag("tie_word_embeddings", True)
    spec = ModelSpec(
        vocab_size=vocabulary,
        width=read.size("d_model"),
        depth=read.size(f"{half}_layers"),
        context=read.size("max_position_embeddings"),
        layers=(layer(line),),
        feed_forward=FeedForwardSpec(
            name=read.choice("activation_function", ACTIVATIONS, "gelu"), hidden=read.size(f"{half}_ffn_dim")
        ),
        position="sinusoidal",
        norm="layer",
        norm_placement="post",
        bias=True,
        tie_embeddings=tied or half == "encoder",
        scale_embeddings=read.flag("scale_embedding", False),
        logit_factor=1.0,
        head_bias=half == "decoder",
    )
    read.finish()
    return spec


def _table(read: State, half: str) -> str:
    return "shared.weight" if "shared.weight" in read else f"{half}.embed_tokens.weight"


def _stack(read: State, spec: ModelSpec, half: str) -> dict[str, Tensor]:
    table = _table(read, half)
    read.same(f"{half}.embed_tokens.weight", table)
    mapped = {"embedding.table": read.take(table)}
    for index in range(spec.depth):
        theirs, ours = f"{half}.layers.{index}.", f"layers.{index}."
        norms = {"attention_norm": "self_attn_layer_norm", "feed_forward_norm": "final_layer_norm"}
        mapped |= _encoder_decoder.attention(
            read, f"{theirs}self_attn.", f"{ours}attention.heads.0.", NAMES, bias=True, cross=False
        )
        if half == "decoder":
            norms["cross_norm"] = "encoder_attn_layer_norm"
            mapped |= _encoder_decoder.attention(
                read, f"{theirs}encoder_attn.", f"{ours}cross.heads.0.", NAMES, bias=True, cross=True
            )
        for name, source in norms.items():
            mapped[f"{ours}{name}.gain"] = read.take(f"{theirs}{source}.weight")
            mapped[f"{ours}{name}.bias"] = read.take(f"{theirs}{source}.bias")
        for name, source in {"up": "fc1", "down": "fc2"}.items():
            mapped[f"{ours}feed_forward.{name}"] = read.take(f"{theirs}{source}.weight")
            mapped[f"{ours}feed_forward.{name}_bias"] = read.take(f"{theirs}{source}.bias")
    return mapped


def _alternate(mapped: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Sines and cosines in turn: columns i and E/2 + i come to 2i and 2i + 1, wherever a tensor meets the width E."""
    order = torch.arange(width).view(2, -1).T.flatten()

    def moved(name: str, tensor: Tensor) -> Tensor:
        part, last = name.rsplit(".", 1) if "." in name else ("", name)
        if last in READERS or last in ("table", "head"):
            return tensor[:, order]
        return tensor[order] if last in WRITERS or part.endswith("norm") else tensor

    return {name: moved(name, tensor) for name, tensor in mapped.items()}
