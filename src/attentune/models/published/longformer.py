"""Longformer (arXiv:2004.05150), with its head for masked tokens.

    heads=12, mask=window(513, symmetric=true) | global_tokens(1)

Their `attention_window` of w is w/2 keys on either side and the query's own: our symmetric window of w + 1. Which
tokens are global they say with each input; here it is the first `global_tokens` of a text. Global tokens have
projections of their own there; they begin as copies of the others, and only copies can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attentune.models.published import _bert
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec


def spec(config: Mapping[str, Any], *, global_tokens: int = 0) -> ModelSpec:
    """The model that a `config.json` of `model_type` longformer describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("longformer", config)
    depth, heads = read.size("num_hidden_layers"), read.size("num_attention_heads")
    sizes = read.take("attention_window", 512)
    sizes = [sizes] * depth if isinstance(sizes, int) else list(sizes)
    if len(sizes) != depth or any(size < 2 or size % 2 for size in sizes):
        read.refuse("attention_window", sizes, "expected an even number from 2, or one for each layer")
    everyone = f" | global_tokens({global_tokens})" if global_tokens else ""
    lines = [f"heads={heads}, mask=window({size + 1}, symmetric=true){everyone}" for size in sizes]
    read.only("hidden_act", "gelu")  # the head for masked tokens knows no other
    read.skip("onnx_export", "ignore_attention_mask", "attention_mode")
    return _bert.model(read, lines, context=read.size("max_position_embeddings") - _unplaced(read))


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `LongformerForMaskedLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape than the spec needs, or a projection of global
            tokens that is no copy while the spec has global tokens.
    """
    read = State("longformer", state, prefix="longformer.", without=_bert.WITHOUT)
    has_global = any("global_tokens" in str(attention) for attention in spec.attentions)
    for index in range(spec.depth):
        for name in ("query", "key", "value"):
            for end in ("weight", "bias"):
                local = f"encoder.layer.{index}.attention.self.{name}.{end}"
                distinct = f"encoder.layer.{index}.attention.self.{name}_global.{end}"
                if has_global:
                    read.same(distinct, local)
                else:
                    read.unread.discard(distinct)
    places = read.take("embeddings.position_embeddings.weight")
    mapped = _bert.embeddings(read, before=places.shape[0] - spec.context) | _bert.layers(read, spec)
    mapped |= _bert.head(
        read, spec, dense="lm_head.dense", norm="lm_head.layer_norm", decoder="lm_head.decoder", bias="lm_head.bias"
    )
    return read.finish(mapped, spec)


def _unplaced(read: Config) -> int:
    """Rows of their table before the first place: padding has one, and places count from the next."""
    return int(read.take("pad_token_id", 1)) + 1
