from __future__ import annotations

from typing import Any

import pytest
import torch

from attentune.errors import CheckpointError
from attentune.kernels import Layout
from attentune.models.published import marian, t5
from attentune.shapes import Tensor
from models.published.comparing import (
    assert_equal,
    assert_equal_gradients,
    loss_of,
    ours_whole,
    published,
    rows,
    state_of,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SOURCE, TARGET = rows(61, 2, 17), rows(61, 2, 11, seed=5)
T5_SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
MARIAN_SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "decoder_vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": 1,
    "decoder_start_token_id": 0,
    "init_std": 0.2,
}


def assert_same(family: Any, model: Any, config: dict[str, Any], real: Tensor | None = None) -> None:
    """Logits and gradients of the two halves together; `real` is False on padding of the source."""
    spec = family.model_spec(config)
    mapped = family.weights(state_of(model), spec)
    mine = ours_whole(spec, mapped)
    theirs = model(input_ids=SOURCE, attention_mask=real, decoder_input_ids=TARGET).logits
    layout = None if real is None else Layout.padded(real)
    logits = mine(TARGET, source=SOURCE, source_layout=layout).logits
    assert theirs.std() > 0.1
    assert_equal("logits", logits, theirs)
    model.zero_grad()
    loss_of(theirs).backward()
    loss_of(logits).backward()
    assert_equal_gradients(model, [(mine, mapped)])


def padding() -> Tensor:
    real = torch.ones(2, 17, dtype=torch.bool)
    real[1, 12:] = False
    return real


def test_t5() -> None:
    config = transformers.T5Config(**T5_SIZES)
    spec = t5.decoder_spec(config.to_dict())
    assert spec.logit_factor == pytest.approx(24**-0.5)
    assert str(spec.layers[0]) == (
        "heads=4, similarity=scaled_dot(scale=1.0), position=t5(buckets=8, max_distance=12), mask=causal, "
        "cross=attention(heads=4, similarity=scaled_dot(scale=1.0))"
    )
    assert_same(t5, published(transformers.T5ForConditionalGeneration, config), config.to_dict())


def test_t5_with_padding_in_the_source() -> None:
    config = transformers.T5Config(**T5_SIZES)
    assert_same(t5, published(transformers.T5ForConditionalGeneration, config), config.to_dict(), padding())


def test_t5_1_1_is_gated_has_heads_of_their_own_width_and_does_not_scale_its_logits() -> None:
    fields = {**T5_SIZES, "d_kv": 5, "feed_forward_proj": "gated-gelu"}
    config = transformers.T5Config(**fields, tie_word_embeddings=False)
    spec = t5.decoder_spec(config.to_dict())
    assert spec.logit_factor is None
    assert str(spec.layers[0].attention.heads.head_width) == "5"
    assert_same(t5, published(transformers.T5ForConditionalGeneration, config), config.to_dict())


def test_a_checkpoint_of_t5_1_1_has_a_head_of_its_own() -> None:
    config = transformers.T5Config(**T5_SIZES)
    state = state_of(published(transformers.T5ForConditionalGeneration, config))
    state["lm_head.weight"] = torch.randn(61, 24)
    spec = t5.decoder_spec({**config.to_dict(), "scale_decoder_outputs": False, "tie_word_embeddings": False})
    mapped = t5.decoder_weights(state, spec)
    assert mapped["head"] is state["lm_head.weight"]
    assert mapped["embedding.table"] is state["shared.weight"]


@pytest.mark.parametrize("activation", ["relu", "swish"])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_transformer_of_2017_as_marian(activation: str, scaled: bool) -> None:
    config = transformers.MarianConfig(**MARIAN_SIZES, activation_function=activation, scale_embedding=scaled)
    model = published(transformers.MarianMTModel, config)
    model.final_logits_bias.copy_(torch.randn(1, 61))
    assert str(marian.decoder_spec(config.to_dict()).layers[0]) == "heads=3, mask=causal, cross=attention(heads=3)"
    assert_same(marian, model, config.to_dict())


def test_marian_with_padding_and_two_vocabularies() -> None:
    config = transformers.MarianConfig(
        **{**MARIAN_SIZES, "decoder_vocab_size": 70}, share_encoder_decoder_embeddings=False
    )
    assert_same(marian, published(transformers.MarianMTModel, config), config.to_dict(), padding())


def test_one_table_for_both_halves_or_two() -> None:
    config = transformers.MarianConfig(**MARIAN_SIZES)
    state = state_of(published(transformers.MarianMTModel, config))
    spec = marian.model_spec(config.to_dict())
    assert spec.share == ("embedding",)
    assert "decoder.embedding.table" not in marian.weights(state, spec)
    own = marian.model_spec({**config.to_dict(), "share_encoder_decoder_embeddings": False})
    assert own.share == ()
    assert torch.equal(
        marian.weights(state, own)["decoder.embedding.table"], marian.weights(state, spec)["encoder.embedding.table"]
    )
    del state["model.shared.weight"]
    state["model.decoder.embed_tokens.weight"] = state["lm_head.weight"] = torch.randn(61, 24)
    with pytest.raises(CheckpointError, match="shares the embeddings, and the two halves differ"):
        marian.weights(state, spec)
