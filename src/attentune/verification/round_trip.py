"""A spec that is written and read back is the same spec."""

from __future__ import annotations

from collections.abc import Iterator

from attentune.mechanisms import layer as read_layer
from attentune.mechanisms import registry
from attentune.spec.codec import from_json, from_toml, to_json, to_toml
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.verification.findings import Finding, holds


def comes_back(layer: LayerSpec) -> Iterator[Finding]:
    """Text, JSON and TOML give back an equal value with the same hash and text."""
    back = read_layer(str(layer))
    yield holds("round trip", "text", back == layer and hash(back) == hash(layer) and str(back) == str(layer))
    yield holds("round trip", "JSON", from_json(LayerSpec, to_json(layer), registry) == layer)
    widths = layer.attention or layer.cross
    model = ModelSpec(vocab_size=2, width=16 * (widths.heads.heads if widths else 1), depth=1, layers=(layer,))
    yield holds("round trip", "TOML", from_toml(ModelSpec, to_toml(model), registry) == model)
