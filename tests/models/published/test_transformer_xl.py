"""Transformer-XL against code written from the paper alone: transformers no longer has the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec
from oracles import transformer_xl

WIDTH, HEADS, VOCABULARY = 12, 3, 29
NAMES = {  # ours: theirs
    "attention.heads.0.out": "attention.output.weight",
    "attention.heads.0.out_bias": "attention.output.bias",
    "attention.position.0.u": "attention.bias_u",
    "attention.position.0.v": "attention.bias_v",
    "attention.position.0.w": "attention.position.weight",
    "attention_norm.gain": "attention_norm.weight",
    "attention_norm.bias": "attention_norm.bias",
    "feed_forward_norm.gain": "ffn_norm.weight",
    "feed_forward_norm.bias": "ffn_norm.bias",
    "feed_forward.up": "ffn.inner.weight",
    "feed_forward.up_bias": "ffn.inner.bias",
    "feed_forward.down": "ffn.outer.weight",
    "feed_forward.down_bias": "ffn.outer.bias",
}


def language_model(memory: int, *, norm_placement: str) -> Decoder:
    """A small model of the recipe in float64, every parameter random."""
    line = f"heads={HEADS}, position=transformer_xl_relative, mask=causal, memory=transformer_xl({memory})"
    spec = ModelSpec(
        vocab_size=VOCABULARY,
        width=WIDTH,
        depth=2,
        context=6,
        layers=(layer(line),),
        feed_forward=FeedForwardSpec(name="relu", hidden=20),
        norm_placement=norm_placement,
        bias=True,
        scale_embeddings=True,
        logit_factor=1.0,
    )
    model = build(spec, seed=0).double().eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def theirs(model: Decoder) -> dict[str, Any]:
    """Our parameters under the oracle's names."""
    held = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    weights = {"embedding.weight": held["embedding.table"]}
    if "norm.gain" in held:
        weights |= {"final_norm.weight": held["norm.gain"], "final_norm.bias": held["norm.bias"]}
    for index in range(2):
        at = f"layers.{index}."
        weights |= {f"{at}{name}": held[f"{at}{own}"] for own, name in NAMES.items()}
        for place, name in enumerate(("query", "key", "value")):
            rows = slice(place * WIDTH, (place + 1) * WIDTH)
            weights[f"{at}attention.{name}.weight"] = held[f"{at}attention.heads.0.qkv"][rows]
            weights[f"{at}attention.{name}.bias"] = held[f"{at}attention.heads.0.qkv_bias"][rows]
    return weights


def by_segments(model: Decoder, segments: list[Tensor]) -> list[Tensor]:
    state, logits = model.start(1), []
    for segment in segments:
        output = model(segment[None], state=state)
        state = output.state
        logits.append(output.logits[0])
    return logits


@pytest.mark.parametrize("norm_placement", ["post", "pre"])
@pytest.mark.parametrize("memory", [4, 9])  # shorter than a segment, and over several
def test_logits_over_segments(memory: int, norm_placement: str) -> None:
    model = language_model(memory, norm_placement=norm_placement)
    ids = torch.randint(VOCABULARY, (17,), generator=torch.Generator().manual_seed(1))
    segments = list(ids.split([6, 5, 6]))
    expected = transformer_xl.language_model(
        [segment.numpy() for segment in segments],
        theirs(model),
        HEADS,
        memory,
        pre_norm=norm_placement == "pre",
        layout="halves",
    )
    with torch.no_grad():
        found = by_segments(model, segments)
        alone = by_segments(model, segments[2:])[0]
    for mine, published in zip(found, expected, strict=True):
        assert torch.allclose(mine, torch.from_numpy(published), atol=1e-9, rtol=0)
    assert (found[2] - alone).abs().max() > 1e-2  # the memory says something
