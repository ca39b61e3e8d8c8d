from __future__ import annotations

import pytest

from attentune.models.published import gpt2
from models.published.comparing import assert_same, published, rows, state_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
SIZES = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32, "initializer_range": 0.2}


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2(tied: bool) -> None:
    config = transformers.GPT2Config(**SIZES, tie_word_embeddings=tied)
    spec = gpt2.spec(config.to_dict())
    assert str(spec.layers[0]) == "heads=4, mask=causal"
    assert_same(published(transformers.GPT2LMHeadModel, config), spec, gpt2.weights, rows(61, 2, 19))


def test_a_checkpoint_of_the_bare_model_and_with_old_buffers_is_the_same() -> None:
    config = transformers.GPT2Config(**SIZES)
    spec = gpt2.spec(config.to_dict())
    state = state_of(published(transformers.GPT2LMHeadModel, config))
    bare = {name.removeprefix("transformer."): held for name, held in state.items() if name != "lm_head.weight"}
    bare["h.0.attn.bias"] = bare["h.2.attn.masked_bias"] = state["lm_head.weight"]
    full, found = gpt2.weights(state, spec), gpt2.weights(bare, spec)
    assert full.keys() == found.keys()
    assert all(full[name].equal(found[name]) for name in full)
