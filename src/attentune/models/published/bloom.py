"""BLOOM (arXiv:2211.05100).

    heads=16, position=alibi, mask=causal

Its q, k and v stand side by side for each head, and the embeddings are normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attentune.mechanisms import layer
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a `config.json` of `model_type` bloom describes; ALiBi itself has no longest row.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("bloom", config)
    read.only("apply_residual_connection_post_layernorm", False)
    read.skip(
        "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "skip_bias_add"
    )
    read.skip("skip_bias_add_qkv", "unk_token_id")
    width = read.size("n_embed") if "n_embed" in read.values else read.size("hidden_size")
    if (inner := read.take("n_inner", 4 * width)) != 4 * width:
        read.refuse("n_inner", inner, "only 4 times the width is supported")
    found = ModelSpec(
        vocab_size=read.size("vocab_size"),
        width=width,
        depth=read.size("num_hidden_layers") if "num_hidden_layers" in read.values else read.size("n_layer"),
        context=read.size("seq_length", 2048),
        layers=(layer(f"heads={_heads(read)}, position=alibi, mask=causal"),),
        feed_forward=FeedForwardSpec(name="gelu_tanh", hidden=4 * width),
        norm="layer",
        norm_epsilon=read.number("layer_norm_epsilon", 1e-5),
        embedding_norm=True,
        bias=True,
        tie_embeddings=read.flag("tie_word_embeddings", True),
    )
    read.finish()
    return found


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `BloomForCausalLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("bloom", state, prefix="transformer.")
    mapped = {"embedding.table": read.take("word_embeddings.weight")}
    if spec.tie_embeddings:
        read.same("lm_head.weight", "word_embeddings.weight")
    else:
        mapped["head"] = read.take("lm_head.weight")
    heads = spec.attentions[0].heads.heads
    norms = {"embedding.norm": "word_embeddings_layernorm", "norm": "ln_f"}
    for index in range(spec.depth):
        theirs, ours = f"h.{index}.", f"layers.{index}."
        norms[f"{ours}attention_norm"] = f"{theirs}input_layernorm"
        norms[f"{ours}feed_forward_norm"] = f"{theirs}post_attention_layernorm"
        for end, suffix in (("weight", ""), ("bias", "_bias")):
            by_head = read.take(f"{theirs}self_attention.query_key_value.{end}").unflatten(0, (heads, 3, -1))
            mapped[f"{ours}attention.heads.0.qkv{suffix}"] = by_head.transpose(0, 1).flatten(0, 2)
            mapped[f"{ours}attention.heads.0.out{suffix}"] = read.take(f"{theirs}self_attention.dense.{end}")
            mapped[f"{ours}feed_forward.up{suffix}"] = read.take(f"{theirs}mlp.dense_h_to_4h.{end}")
            mapped[f"{ours}feed_forward.down{suffix}"] = read.take(f"{theirs}mlp.dense_4h_to_h.{end}")
    for name, source in norms.items():
        mapped[f"{name}.gain"] = read.take(f"{source}.weight")
        mapped[f"{name}.bias"] = read.take(f"{source}.bias")
    return read.finish(mapped, spec)


def _heads(config: Config) -> int:
    return config.size("num_attention_heads") if "num_attention_heads" in config.values else config.size("n_head")
