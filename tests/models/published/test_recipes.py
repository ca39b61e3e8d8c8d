"""The page of recipes: its lines parse, its code runs, and both are what the readers make of published sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from attentune.mechanisms import layer
from attentune.models.published import (
    big_bird,
    bloom,
    deepseek_v3,
    diffllama,
    llama,
    longformer,
    marian,
    mistral,
    qwen3,
    qwen3_next,
    t5,
)
from attentune.spec.model import ModelSpec

PAGE = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
SECTIONS = dict(zip(*[iter(re.split(r"^## (.+)$", PAGE, flags=re.M)[1:])] * 2, strict=True))
TWELVE = [title for title in SECTIONS if "```text" in SECTIONS[title]]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def run_page() -> dict[str, ModelSpec]:
    names: dict[str, Any] = {}
    for code in blocks(PAGE, "python"):
        exec(compile(code, "docs/recipes.md", "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, ModelSpec)}


MODELS = run_page()


def test_there_are_twelve() -> None:
    assert len(TWELVE) == 12
    assert PAGE.count("**Proof:**") == 12


@pytest.mark.parametrize("title", TWELVE)
def test_each_line_is_that_of_the_model_beside_it(title: str) -> None:
    lines = [layer(line) for block in blocks(SECTIONS[title], "text") for line in block.strip().splitlines()]
    assert lines
    held = [model.layers for name, model in MODELS.items() if re.search(rf"^{name} = ", SECTIONS[title], flags=re.M)]
    assert [(line,) for line in lines] == held


def test_each_test_that_the_page_names_is_there() -> None:
    folder = Path(__file__).parent
    held = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", PAGE)
    assert len(named) > 12
    for file, test in named:
        assert file in held, file
        assert f"def {test}" in held[file], test
    for test in re.findall(r"`(test_\w+?)(?:_?\.\.\.)?`", PAGE):
        assert any(f"def {test}" in text for text in held.values()), test


LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "num_hidden_layers": 32}
LLAMA |= {"intermediate_size": 14336, "hidden_act": "silu", "rms_norm_eps": 1e-5}
YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MARIAN = {"vocab_size": 37000, "d_model": 512, "max_position_embeddings": 512, "activation_function": "relu"}
for half in ("encoder", "decoder"):
    MARIAN |= {f"{half}_layers": 6, f"{half}_ffn_dim": 2048, f"{half}_attention_heads": 8}
T5 = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
STRETCH = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
QWEN3 = {"vocab_size": 151936, "hidden_act": "silu", "rms_norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("name", "read", "config"),
    [
        ("transformer_encoder", marian.encoder_spec, {**MARIAN, "scale_embedding": True}),
        ("transformer_decoder", marian.decoder_spec, {**MARIAN, "scale_embedding": True}),
        ("t5_encoder", t5.encoder_spec, T5),
        ("t5_decoder", t5.decoder_spec, T5),
        (
            "bloom",
            bloom.spec,
            {"vocab_size": 250880, "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "seq_length": 2048},
        ),
        (
            "llama_3",
            llama.spec,
            {
                **LLAMA,
                "vocab_size": 128256,
                "max_position_embeddings": 131072,
                "rope_theta": 500000.0,
                "rope_scaling": {**STRETCH, "original_max_position_embeddings": 8192},
            },
        ),
        (
            "mistral",
            mistral.spec,
            {**LLAMA, "vocab_size": 32000, "max_position_embeddings": 32768, "sliding_window": 4096},
        ),
        (
            "deepseek_v3",
            deepseek_v3.spec,
            {
                **LATENT,
                "vocab_size": 129280,
                "hidden_size": 7168,
                "num_hidden_layers": 61,
                "hidden_act": "silu",
                "num_attention_heads": 128,
                "intermediate_size": 18432,
                "max_position_embeddings": 163840,
                "first_k_dense_replace": 61,
                "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
            },
        ),
        (
            "gated",
            qwen3_next.spec,
            {
                **QWEN3,
                "hidden_size": 2048,
                "num_hidden_layers": 48,
                "num_attention_heads": 16,
                "head_dim": 256,
                "num_key_value_heads": 2,
                "max_position_embeddings": 262144,
                "intermediate_size": 5120,
                "rope_theta": 10000000,
                "partial_rotary_factor": 0.25,
                "num_experts": 0,
            },
        ),
        (
            "differential",
            diffllama.spec,
            {
                **LLAMA,
                "num_key_value_heads": 32,
                "hidden_size": 2048,
                "num_hidden_layers": 16,
                "vocab_size": 32000,
                "intermediate_size": 8192,
                "max_position_embeddings": 2048,
            },
        ),
        (
            "qwen3",
            qwen3.spec,
            {
                **QWEN3,
                "hidden_size": 1024,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "head_dim": 128,
                "num_key_value_heads": 8,
                "max_position_embeddings": 40960,
                "intermediate_size": 3072,
                "rope_theta": 1000000,
                "tie_word_embeddings": True,
            },
        ),
    ],
)
def test_each_model_is_what_its_reader_makes_of_the_published_sizes(
    name: str, read: Callable[[Mapping[str, Any]], ModelSpec], config: dict[str, Any]
) -> None:
    assert read(config) == MODELS[name]


def test_longformer_for_one_global_token() -> None:
    config = {**BERT, "vocab_size": 50265, "max_position_embeddings": 4098, "layer_norm_eps": 1e-5}
    assert longformer.spec({**config, "attention_window": [512] * 12}, global_tokens=1) == MODELS["longformer"]


def test_bigbird_has_a_last_global_block_and_other_draws_in_each_layer_beside_the_line() -> None:
    config = {**BERT, "vocab_size": 50358, "max_position_embeddings": 4096, "hidden_act": "gelu_new"}
    found, line = big_bird.spec(config), MODELS["bigbird"]
    assert found.replace(layers=line.layers) == line
    shown = line.layers[0].attention.mask.masks
    for index, one in enumerate(found.layers):
        near, first, last, drawn = one.attention.mask.masks
        assert (near, first) == shown[:2]
        assert last.positions == tuple(range(4032, 4096))
        assert drawn == shown[2].replace(seed=index)
