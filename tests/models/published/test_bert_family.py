from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, ClassVar, Literal, final

import pytest
import torch

from attentune.errors import CheckpointError
from attentune.kernels import Layout
from attentune.models.published import bert, big_bird, longformer
from attentune.shapes import Bool, Tensor
from attentune.spec.masks import Mask, Or
from attentune.spec.model import ModelSpec
from attentune.spec.positions import Positions
from models.published.comparing import assert_equal, assert_same, difference, ours, published, rows, state_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "layer_norm_eps": 1e-6,
}


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_bert(activation: str) -> None:
    config = transformers.BertConfig(**SIZES, hidden_act=activation)
    spec = bert.spec(config.to_dict())
    assert str(spec.layers[0]) == "heads=4"
    assert_same(published(transformers.BertForMaskedLM, config), spec, bert.weights, rows(61, 2, 19))


def test_notes_of_the_first_multilingual_checkpoints_are_passed_over() -> None:
    config = transformers.BertConfig(**SIZES).to_dict()
    notes = {"directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_type": "first"}
    assert bert.spec({**config, **notes}) == bert.spec(config)


def test_padding_at_the_end_changes_nothing_before_it() -> None:
    config = transformers.BertConfig(**SIZES)
    model = published(transformers.BertForMaskedLM, config)
    spec = bert.spec(config.to_dict())
    ids, real = rows(61, 2, 19), torch.ones(2, 19, dtype=torch.bool)
    real[1, 11:] = False
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=real).logits
        logits = ours(spec, bert.weights(state_of(model), spec))(ids, Layout.padded(real)).logits
    assert_equal("logits", logits[real], theirs[real])


def test_the_names_of_the_first_bert_checkpoints_are_read() -> None:
    config = transformers.BertConfig(**SIZES)
    spec = bert.spec({**config.to_dict(), "position_embedding_type": "absolute"})
    state = state_of(published(transformers.BertForPreTraining, config))
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in state.items()
    }
    assert old.keys() != state.keys()
    new, found = bert.weights(state, spec), bert.weights(old, spec)
    assert all(new[name].equal(found[name]) for name in new)


def test_longformer_with_windows_alone() -> None:
    config = transformers.LongformerConfig(**{**SIZES, "layer_norm_eps": 1e-5}, attention_window=[4, 8, 4])
    spec = longformer.spec(config.to_dict())
    assert [layer.attention.mask.window for layer in spec.layers] == [5, 9, 5]
    assert spec.context == 62
    model = published(transformers.LongformerForMaskedLM, config)
    mine = assert_same(model, spec, longformer.weights, rows(61, 2, 24))
    wider = spec.replace(layers=longformer.spec({**config.to_dict(), "attention_window": 8}).layers)
    assert difference(mine, wider, rows(61, 2, 24)) > 1e-2


def with_copies(model: Any) -> Any:
    """Global tokens projected as all others are: then both gradients are one."""
    for layer in model.longformer.encoder.layer:
        own = layer.attention.self
        own.query_global, own.key_global, own.value_global = own.query, own.key, own.value
    return model


def test_longformer_with_global_tokens() -> None:
    config = transformers.LongformerConfig(**SIZES, attention_window=4)
    spec = longformer.spec(config.to_dict(), global_tokens=2)
    assert str(spec.layers[0]) == "heads=4, mask=window(5, symmetric=true) | global_tokens(count=2)"
    model = with_copies(published(transformers.LongformerForMaskedLM, config))
    everyone = torch.zeros(2, 24, dtype=torch.long)
    everyone[:, :2] = 1
    assert_same(model, spec, longformer.weights, rows(61, 2, 24), global_attention_mask=everyone)


def test_projections_of_global_tokens_that_are_no_copies_are_refused() -> None:
    config = transformers.LongformerConfig(**SIZES, attention_window=4)
    state = state_of(published(transformers.LongformerForMaskedLM, config))
    longformer.weights(state, longformer.spec(config.to_dict()))
    with pytest.raises(CheckpointError, match=r"query_global.weight' differs from .*query.weight', to which"):
        longformer.weights(state, longformer.spec(config.to_dict(), global_tokens=1))


def big_bird_config(**fields: Any) -> Any:
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BigBirdConfig(**{**SIZES, "pad_token_id": 0, **off, **fields})


@pytest.mark.parametrize("rescale", [False, True])
def test_big_bird_with_full_attention(rescale: bool) -> None:
    config = big_bird_config(attention_type="original_full", rescale_embeddings=rescale)
    spec = big_bird.spec(config.to_dict())
    assert str(spec.layers[0]) == "heads=4"
    assert_same(published(transformers.BigBirdForMaskedLM, config), spec, big_bird.weights, rows(61, 2, 19))


@final
class GivenBlocks(Mask):
    """Random blocks as someone else drew them: for each block of queries the blocks of keys."""

    kind: Literal["given_blocks"] = "given_blocks"
    needs_order: ClassVar[bool] = True
    block: int
    plan: tuple[tuple[int, ...], ...]

    def visible(self, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        drawn = torch.tensor(self.plan)[query.position // self.block]
        return (drawn == (key.position // self.block)[..., None]).any(-1)

    @property
    def lookahead(self) -> int | None:
        return None


@pytest.mark.slow  # two minutes: planning 32,768 keys in random blocks of 2 asks 1,024 times for each band of tiles
def test_big_bird_with_blocks() -> None:
    """Theirs draws random blocks only while it trains; its draws, the first head's for all heads, are put into ours."""
    blocks, block, several = 12, 2, 2
    config = big_bird_config(attention_type="block_sparse", block_size=block, num_random_blocks=several)
    spec = big_bird.spec(config.to_dict(), length=blocks * block)
    model = published(transformers.BigBirdForMaskedLM, config).train()
    plans: list[Any] = []
    for layer in model.bert.encoder.layer:
        record_plan(layer.attention.self, plans)
    ids = rows(61, 2, blocks * block)
    model(input_ids=ids)
    assert len(plans) == 3 and len({str(plan) for plan in plans}) == 3  # a draw for each layer
    mine = assert_same(model, with_plans(spec, plans, block), big_bird.weights, ids)
    assert difference(mine, spec, ids) > 1e-2  # other draws, other logits


def record_plan(attention: Any, plans: list[Any]) -> None:
    draw = attention._bigbird_block_rand_mask_with_head

    def recorded(**arguments: Any) -> list[Any]:
        drawn: list[Any] = draw(**arguments)
        plans.append(drawn[0])
        return [drawn[0]] * len(drawn)

    attention._bigbird_block_rand_mask_with_head = recorded


def with_plans(spec: ModelSpec, plans: list[Any], block: int) -> ModelSpec:
    """`spec` with the given draws in the place of its own."""
    layers = []
    for layer, plan in zip(spec.layers, plans, strict=True):
        assert layer.attention is not None and isinstance(layer.attention.mask, Or)
        *shown, random = layer.attention.mask.masks
        assert random.kind == "random_blocks"
        outer = (-1,) * plan.shape[1]  # the first and the last block see everything
        given = GivenBlocks(block=block, plan=(outer, *(tuple(map(int, row)) for row in plan), outer))
        layers.append(layer.replace(attention=layer.attention.replace(mask=reduce(or_, shown, given))))
    return spec.replace(layers=tuple(layers))
