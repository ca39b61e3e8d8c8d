from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear, rms_norm

from attentune.errors import SpecError
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.spec.model import ModelSpec

IDS = torch.tensor([[1, 4, 2, 0, 3]])


def model(**fields: Any) -> Decoder:
    spec = ModelSpec(vocab_size=5, width=8, depth=1, context=8, layers=(layer("heads=2, mask=causal"),), **fields)
    return build(spec, seed=0).double()


def test_logits_are_made_of_the_hidden_states() -> None:
    plain = model()
    output = plain(IDS)
    assert output.hidden is not None
    assert torch.equal(output.logits, linear(output.hidden, plain.embedding.table))


def test_the_factor_multiplies_all_logits() -> None:
    plain, halved = model(), model(logit_factor=0.5)
    assert torch.allclose(halved(IDS).logits, plain(IDS).logits / 2, atol=1e-15)


def test_a_factor_replaces_the_one_of_a_scaled_embedding() -> None:
    usual, whole = model(scale_embeddings=True), model(scale_embeddings=True, logit_factor=1.0)
    assert torch.allclose(usual(IDS).logits * 8**0.5, whole(IDS).logits, atol=1e-12)


def test_the_bias_of_the_head_is_added_to_each_logit_and_does_not_decay() -> None:
    biased = model(head_bias=True)
    before = biased(IDS).logits
    assert biased.head_bias is not None and biased.head_bias.weight_decay is False
    with torch.no_grad():
        biased.head_bias.copy_(torch.arange(5.0))
    assert torch.allclose(biased(IDS).logits - before, torch.arange(5.0, dtype=torch.float64).expand(1, 5, 5))


def test_the_transform_is_linear_activation_norm() -> None:
    transformed = model(head_transform=True, bias=True)
    head = transformed.head_transform
    assert head is not None
    with torch.no_grad():
        head.bias.uniform_(-1, 1)
    output = transformed(IDS)
    h = layer_norm(gelu(linear(output.hidden, head.weight, head.bias)), (8,))
    assert torch.allclose(output.logits, linear(h, transformed.embedding.table), atol=1e-12)


def test_a_transform_without_an_activation_is_refused() -> None:
    with pytest.raises(SpecError, match="head_transform needs the activation of a feed-forward network"):
        model(head_transform=True, feed_forward={"name": "none"})


def test_the_embedding_is_normalised_after_positions_are_added() -> None:
    normed = model(embedding_norm=True, position="learned", norm="rms", feed_forward={"name": "none"})
    x = normed.embedding.table[IDS] + normed.embedding.places[:5]
    seen: list[torch.Tensor] = []
    normed.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    normed(IDS)
    assert torch.allclose(seen[0], rms_norm(x, (8,), eps=1e-6), atol=1e-12)


@pytest.mark.parametrize("name", ["layer", "rms", "batch"])
def test_every_norm_of_the_model_uses_the_epsilon(name: str) -> None:
    fields = {"norm": name, "embedding_norm": True, "head_transform": True}
    given = model(**fields, norm_epsilon=0.25)
    norms = [module for module in given.modules() if type(module).__name__.endswith("Norm")]
    assert len(norms) == 5
    assert {module.epsilon for module in norms} == {0.25}
    own = {module.epsilon for module in model(**fields).modules() if type(module).__name__.endswith("Norm")}
    assert own == {1e-6 if name == "rms" else 1e-5}
    given.train()
    assert not torch.allclose(given(IDS).logits, model(**fields).train()(IDS).logits, atol=1e-3)
