"""What the readers refuse: every value and tensor that they cannot honour, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from attentune.errors import CheckpointError, SpecError
from attentune.models.published import (
    bert,
    big_bird,
    bloom,
    deepseek_v3,
    diffllama,
    gpt2,
    llama,
    longformer,
    marian,
    mistral,
    qwen3,
    qwen3_next,
    t5,
)
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 7,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
GPT2 = {"vocab_size": 7, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
BERT = {k: v for k, v in LLAMA.items() if k not in ("model_type", "hidden_act", "rms_norm_eps")}
T5 = {"vocab_size": 7, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
MARIAN = {
    **{f"{half}_{name}": size for half in ("encoder", "decoder") for name, size in (("layers", 1), ("ffn_dim", 12))},
    "vocab_size": 7,
    "d_model": 8,
    "max_position_embeddings": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
LATENT = {"kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4}
PLAIN = {k: v for k, v in LLAMA.items() if k != "model_type"}
Read = Callable[[Mapping[str, Any]], ModelSpec]


@pytest.mark.parametrize(
    ("read", "config", "message"),
    [
        (llama.spec, {**LLAMA, "attention_bias": True}, "attention_bias=True is not supported; only False"),
        (llama.spec, {**LLAMA, "hidden_act": "gelu"}, "hidden_act='gelu' is not supported; expected 'silu'"),
        (llama.spec, {**LLAMA, "model_type": "gemma"}, "llama cannot read a configuration of model_type 'gemma'"),
        (llama.spec, {**LLAMA, "hidden_size": None}, "llama configuration: hidden_size is required"),
        (llama.spec, {**LLAMA, "hidden_size": 8.0}, "hidden_size must be a whole number from 1, got 8.0"),
        (llama.spec, {**LLAMA, "rms_norm_eps": "1e-5"}, "rms_norm_eps must be a number, got '1e-5'"),
        (llama.spec, {**LLAMA, "tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        (llama.spec, {**LLAMA, "residual_multiplier": 2.0}, "residual_multiplier=2.0 is unknown here, and may change"),
        (llama.spec, {**LLAMA, "rope_scaling": {"rope_type": "longrope"}}, "rope_type='longrope' is not supported"),
        (llama.spec, {**LLAMA, "rope_scaling": {"type": "yarn"}}, "rope_type='yarn' needs factor"),
        (llama.spec, {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0, "low": 1}}, "rope_parameters.low is"),
        (mistral.spec, {**PLAIN, "sliding_window": 0}, "window"),
        (qwen3.spec, {**PLAIN, "rms_norm_eps": 1e-5}, "qwen3 .* rms_norm_eps=1e-05 is not supported; only 1e-06"),
        (qwen3.spec, {**PLAIN, "rms_norm_eps": 1e-6, "layer_types": ["sliding_attention"]}, "layer_types='sliding_at"),
        (diffllama.spec, {**PLAIN, "rms_norm_eps": 1e-6}, "diffllama .* only 1e-05 is supported"),
        (qwen3_next.spec, {**PLAIN, "rms_norm_eps": 1e-6, "layer_types": ["linear_attention"]}, "layer_types="),
        (
            qwen3_next.spec,
            {**PLAIN, "rms_norm_eps": 1e-6},
            "num_experts=512 is not supported; every layer needs a dense",
        ),
        (
            deepseek_v3.spec,
            {**PLAIN, **LATENT, "num_hidden_layers": 4},
            "first_k_dense_replace=3 is not supported; all 4",
        ),
        (gpt2.spec, {**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not"),
        (bloom.spec, {**GPT2, "n_embed": 8, "n_inner": 9}, "n_inner=9 is not supported"),
        (
            bert.spec,
            {**BERT, "position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not",
        ),
        (bert.spec, {**BERT, "is_decoder": True}, "is_decoder=True is not supported"),
        (
            longformer.spec,
            {**BERT, "attention_window": 3},
            r"attention_window=\[3\] is not supported; expected an even",
        ),
        (big_bird.spec, {**BERT, "block_size": 4}, "rows of 16 tokens need a multiple of it, of more than 11 blocks"),
        (big_bird.spec, {**BERT, "use_bias": False}, "use_bias=False is not supported"),
        (t5.encoder_spec, {**T5, "feed_forward_proj": "gated-relu"}, "feed_forward_proj='gated-relu' is not supported"),
        (marian.decoder_spec, {**MARIAN, "normalize_before": True}, "normalize_before=True is not supported"),
    ],
)
def test_values_that_are_not_supported_are_named(read: Read, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(config)


def weights() -> dict[str, Tensor]:
    shapes = {
        "model.embed_tokens.weight": (7, 8),
        "model.norm.weight": (8,),
        "lm_head.weight": (7, 8),
        "model.layers.0.input_layernorm.weight": (8,),
        "model.layers.0.post_attention_layernorm.weight": (8,),
        **{f"model.layers.0.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
        **{f"model.layers.0.mlp.{name}_proj.weight": (12, 8) for name in ("gate", "up")},
        "model.layers.0.mlp.down_proj.weight": (8, 12),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_a_checkpoint_that_fits() -> None:
    state = weights()
    mapped = llama.weights(state, llama.spec(LLAMA))
    assert mapped["head"] is state["lm_head.weight"]
    assert torch.equal(mapped["layers.0.feed_forward.up"][:12], state["model.layers.0.mlp.gate_proj.weight"])
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(2)  # a buffer of older checkpoints
    assert llama.weights(state, llama.spec(LLAMA)).keys() == mapped.keys()


def test_tensors_that_are_missing_are_named() -> None:
    state = weights()
    del state["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"llama weights: 'layers.0.mlp.up_proj.weight' is missing"):
        llama.weights(state, llama.spec(LLAMA))


def test_tensors_that_nothing_reads_are_named_as_they_stand_in_the_checkpoint() -> None:
    state = {**weights(), "model.layers.0.self_attn.q_proj.bias": torch.zeros(8)}
    with pytest.raises(CheckpointError, match=r"'model.layers.0.self_attn.q_proj.bias' is unknown here"):
        llama.weights(state, llama.spec(LLAMA))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"'head' has shape \(7, 8\), expected \(9, 8\)"):
        llama.weights(weights(), llama.spec({**LLAMA, "vocab_size": 9}))


def test_a_spec_of_another_model_is_refused() -> None:
    other = llama.spec(LLAMA).replace(position="learned")
    with pytest.raises(CheckpointError, match=r"do not fit the spec: no tensor for 'embedding.places'"):
        llama.weights(weights(), other)


def test_a_tied_head_may_be_there_but_not_differ() -> None:
    spec, state = llama.spec({**LLAMA, "tie_word_embeddings": True}), weights()
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' differs from 'embed_tokens.weight', to which"):
        llama.weights(state, spec)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    assert "head" not in llama.weights(state, spec)
