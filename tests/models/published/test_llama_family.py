from __future__ import annotations

from typing import Any

import pytest
import torch

from attentune.models.published import deepseek_v3, diffllama, llama, mistral, qwen3, qwen3_next
from models.published.comparing import assert_equal, assert_same, difference, published, rows

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
IDS = rows(61, 2, 23)


def test_llama_with_tied_embeddings_and_another_epsilon() -> None:
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-2)
    spec = llama.spec(config.to_dict())
    assert str(spec.layers[0]) == "heads=4/2, position=rotary, mask=causal"
    assert_same(published(transformers.LlamaForCausalLM, config), spec, llama.weights, IDS)


def test_llama_3_stretches_its_rotary_positions() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 300.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 3.0,
        "original_max_position_embeddings": 16,
    }
    config = transformers.LlamaConfig(**SIZES, rope_parameters=rope)
    spec = llama.spec(config.to_dict())
    assert str(spec.layers[0].attention.position.kind) == "rotary_llama3"
    model = published(transformers.LlamaForCausalLM, config)
    mine = assert_same(model, spec, llama.weights, IDS)
    old = {**config.to_dict(), "rope_theta": 300.0, "rope_scaling": {**rope, "rope_theta": None}}
    del old["rope_parameters"]
    assert llama.spec(old) == spec
    plain = llama.spec({**config.to_dict(), "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}})
    assert difference(mine, plain, IDS) > 1e-2


def test_mistral_shows_as_many_keys_as_its_window_says() -> None:
    config = transformers.MistralConfig(**SIZES, sliding_window=5, rms_norm_eps=1e-5)
    spec = mistral.spec(config.to_dict())
    assert str(spec.layers[0]) == "heads=4/2, position=rotary, mask=window(5)"
    mine = assert_same(published(transformers.MistralForCausalLM, config), spec, mistral.weights, IDS)
    assert difference(mine, mistral.spec({**config.to_dict(), "sliding_window": 6}), IDS) > 1e-2


def test_mistral_without_a_window_is_causal() -> None:
    config = transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=10)
    spec = mistral.spec(config.to_dict())
    assert str(spec.layers[0]) == "heads=grouped(4, 2, head_width=10), position=rotary, mask=causal"
    assert_same(published(transformers.MistralForCausalLM, config), spec, mistral.weights, IDS)


def test_qwen3() -> None:
    config = transformers.Qwen3Config(**SIZES, head_dim=8)
    spec = qwen3.spec(config.to_dict())
    assert len(spec.layers) == 1
    assert str(spec.layers[0]) == ("heads=grouped(4, 2, head_width=8), position=rotary, mask=causal, scores=qk_norm")
    assert_same(published(transformers.Qwen3ForCausalLM, config), spec, qwen3.weights, IDS)


def test_qwen3_with_windows_in_its_upper_layers() -> None:
    config = transformers.Qwen3Config(
        **SIZES, head_dim=6, use_sliding_window=True, sliding_window=4, max_window_layers=2
    )
    spec = qwen3.spec(config.to_dict())
    assert [layer.attention.mask.kind for layer in spec.layers] == ["causal", "causal", "window"]
    assert_same(published(transformers.Qwen3ForCausalLM, config), spec, qwen3.weights, IDS)


def test_differential_attention() -> None:
    config = transformers.DiffLlamaConfig(**{**SIZES, "num_attention_heads": 8, "num_key_value_heads": 4}, head_dim=4)
    spec = diffllama.spec(config.to_dict())
    assert "combine=differential" in str(spec.layers[0])
    told = {name: value for name, value in config.to_dict().items() if name != "rms_norm_eps"}
    assert diffllama.spec(told) == spec and spec.norm_epsilon == 1e-5
    assert_same(published(transformers.DiffLlamaForCausalLM, config), spec, diffllama.weights, IDS)


def gated(**fields: Any) -> Any:
    return transformers.Qwen3NextConfig(
        **{**SIZES, "layer_types": ["full_attention"] * 3, "num_experts": 0, "head_dim": 8, **fields}
    )


def test_gated_attention_of_qwen3_next() -> None:
    config = gated()
    spec = qwen3_next.spec(config.to_dict())
    assert str(spec.layers[0]) == (
        "heads=grouped(4, 2, head_width=8), position=rotary(fraction=0.25), mask=causal, scores=qk_norm, "
        "combine=gate(per=element)"
    )
    assert_same(published(transformers.Qwen3NextForCausalLM, config), spec, qwen3_next.weights, IDS)


def deepseek(**fields: Any) -> Any:
    own = {"num_key_value_heads": 4, "kv_lora_rank": 12, "q_lora_rank": 10, "qk_nope_head_dim": 5}
    return transformers.DeepseekV3Config(
        **{**SIZES, **own, "qk_rope_head_dim": 4, "v_head_dim": 7, "first_k_dense_replace": 3, **fields}
    )


def test_latent_attention_of_deepseek_v3() -> None:
    config = deepseek()
    spec = deepseek_v3.spec(config.to_dict())
    assert str(spec.layers[0]) == (
        "heads=latent(4, 12, rotary=4, query_rank=10, key_width=5, value_width=7), "
        "position=rotary(pairs=neighbours), mask=causal"
    )
    assert_same(published(transformers.DeepseekV3ForCausalLM, config), spec, deepseek_v3.weights, IDS)


@pytest.mark.parametrize(
    "mscales", [{"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.7, "mscale_all_dim": 1.3}, {}]
)
def test_deepseek_v3_with_yarn(mscales: dict[str, float]) -> None:
    rope = {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "factor": 4.0,
        "beta_fast": 3.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 16,
        **mscales,
    }
    config = deepseek(rope_parameters=rope)
    spec = deepseek_v3.spec(config.to_dict())
    assert (spec.layers[0].attention.similarity.scale is not None) == bool(mscales)
    mine = assert_same(published(transformers.DeepseekV3ForCausalLM, config), spec, deepseek_v3.weights, IDS)
    plain = deepseek_v3.spec({**config.to_dict(), "rope_parameters": {"rope_theta": 100.0}})
    assert difference(mine, plain, IDS) > 1e-2


def test_deepseek_v3_without_a_latent_of_queries_and_with_halves() -> None:
    config = deepseek(q_lora_rank=None, rope_interleave=False)
    spec = deepseek_v3.spec(config.to_dict())
    assert "query_rank" not in str(spec.layers[0])
    assert "pairs" not in str(spec.layers[0])
    assert_same(published(transformers.DeepseekV3ForCausalLM, config), spec, deepseek_v3.weights, IDS)


def test_decoding_step_by_step_gives_what_theirs_gives_for_the_whole_row() -> None:
    config = transformers.Qwen3Config(**SIZES, head_dim=8)
    model = published(transformers.Qwen3ForCausalLM, config)
    mine = assert_same(model, qwen3.spec(config.to_dict()), qwen3.weights, IDS)
    with torch.no_grad():
        state, steps = mine.start(2), []
        for place in range(IDS.shape[1]):
            output = mine(IDS[:, place : place + 1], state=state)
            state = output.state
            steps.append(output.logits)
        assert_equal("steps", torch.cat(steps, 1), model(input_ids=IDS).logits)
