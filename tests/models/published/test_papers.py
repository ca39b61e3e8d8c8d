"""Recipes against code written from their papers alone, beside the published models of the other tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention, layer
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.spec.model import FeedForwardSpec, ModelSpec
from models.published.comparing import rows
from oracles import gated_attention, transformer_2017

PARTS = {  # ours: theirs
    "attention_norm.gain": "self_norm.weight",
    "attention_norm.bias": "self_norm.bias",
    "cross_norm.gain": "cross_norm.weight",
    "cross_norm.bias": "cross_norm.bias",
    "feed_forward_norm.gain": "ffn_norm.weight",
    "feed_forward_norm.bias": "ffn_norm.bias",
    "feed_forward.up": "ffn.inner.weight",
    "feed_forward.up_bias": "ffn.inner.bias",
    "feed_forward.down": "ffn.outer.weight",
    "feed_forward.down_bias": "ffn.outer.bias",
}


def scattered(module: nn.Module, seed: int) -> None:
    """Every parameter random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def half(text: str, **fields: Any) -> Decoder:
    spec = ModelSpec(
        vocab_size=23,
        width=12,
        depth=2,
        context=16,
        layers=(layer(text),),
        feed_forward=FeedForwardSpec(name="relu", hidden=20),
        position="sinusoidal",
        norm_placement="post",
        bias=True,
        scale_embeddings=True,
        logit_factor=1.0,
        **fields,
    )
    model = build(spec, seed=0).double().eval()
    scattered(model, seed=len(text))
    return model


def named_as_in_the_paper(model: Decoder, name: str) -> dict[str, Any]:
    held = {own: tensor.detach().numpy() for own, tensor in model.named_parameters()}
    weights = {}
    for index in range(2):
        ours, theirs = f"layers.{index}.", f"{name}.{index}."
        weights |= {f"{theirs}{part}": held[ours + own] for own, part in PARTS.items() if ours + own in held}
        for end, suffix in (("weight", ""), ("bias", "_bias")):
            for own, part in {"attention": "self", "cross": "cross"}.items():
                if (whole := held.get(f"{ours}{own}.heads.0.qkv{suffix}")) is not None:
                    split = {"query": whole[:12], "key": whole[12:24], "value": whole[24:]}
                elif (q := held.get(f"{ours}{own}.heads.0.q{suffix}")) is not None:
                    kv = held[f"{ours}{own}.heads.0.kv{suffix}"]
                    split = {"query": q, "key": kv[:12], "value": kv[12:]}
                else:
                    continue
                split["output"] = held[f"{ours}{own}.heads.0.out{suffix}"]
                weights |= {f"{theirs}{part}.{which}.{end}": tensor for which, tensor in split.items()}
    return weights


def test_the_transformer_of_2017() -> None:
    encoder, decoder = half("heads=3"), half("heads=3, mask=causal, cross=attention(heads=3)", head_bias=True)
    with torch.no_grad():
        encoder.embedding.table.copy_(decoder.embedding.table)
    source, target = rows(23, 1, 9), rows(23, 1, 7, seed=5)
    real = torch.tensor([[True] * 6 + [False] * 3])
    with torch.no_grad():
        hidden = encoder(source, Layout.padded(real)).hidden
        logits = decoder(target, context=hidden, context_valid=real).logits[0]
    weights = named_as_in_the_paper(encoder, "encoder") | named_as_in_the_paper(decoder, "decoder")
    weights["embedding.weight"] = decoder.embedding.table.detach().numpy()
    assert decoder.head_bias is not None
    weights["output.bias"] = decoder.head_bias.detach().numpy()
    expected = transformer_2017.forward(source[0].numpy(), target[0].numpy(), weights, 3, real[0].numpy())
    assert expected.std() > 0.1
    assert torch.allclose(logits, torch.from_numpy(expected), atol=2e-6, rtol=0)  # the sinusoid is in float32


@pytest.mark.parametrize(("per", "gate"), [("head", "headwise"), ("element", "elementwise")])
def test_gated_attention(per: str, gate: Any) -> None:
    module = Attention(attention(f"heads=4/2, mask=causal, combine=gate(per={per})"), width=8).double()
    scattered(module, seed=6)
    x = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    held = {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}
    rows_of = {"query": slice(0, 8), "key": slice(8, 12), "value": slice(12, 16)}
    weights = {f"{name}.weight": held["heads.0.qkv"][rows] for name, rows in rows_of.items()}
    weights |= {"output.weight": held["heads.0.out"], "gate.weight": held["combine.0.weight"]}
    expected = gated_attention.gated_attention(x[0].numpy(), weights, 4, 2, gate)
    with torch.no_grad():
        found = module(x, Layout.plain(9)).y[0]
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-12, rtol=0)
