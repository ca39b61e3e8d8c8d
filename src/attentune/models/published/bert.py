"""BERT (arXiv:1810.04805), with its head for masked tokens.

    heads=12

Texts of one kind: the vector of the first token type is added to the places when the weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attentune.models.published import _bert
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a `config.json` of `model_type` bert describes.

    Raises:
        SpecError: a value that is not supported, such as relative positions.
    """
    read = Config("bert", config)
    line = f"heads={read.size('num_attention_heads')}"
    return _bert.model(read, [line], context=read.size("max_position_embeddings"))


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `BertForMaskedLM` or `BertForPreTraining`.

    Those of the bare `BertModel` have no head: give the spec `without_head` then.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    old = {".gamma": ".weight", ".beta": ".bias"}  # of LayerNorm, in the first checkpoints
    named = {next((n.removesuffix(e) + new for e, new in old.items() if n.endswith(e)), n): t for n, t in state.items()}
    read = State("bert", named, prefix="bert.", without=_bert.WITHOUT)
    mapped = _bert.embeddings(read) | _bert.layers(read, spec)
    if spec.head_transform:
        mapped |= _bert.head(
            read,
            spec,
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.LayerNorm",
            decoder="cls.predictions.decoder",
            bias="cls.predictions.bias",
        )
    return read.finish(mapped, spec)


def without_head(spec: ModelSpec, state: Mapping[str, Tensor]) -> ModelSpec:
    """`spec` as these tensors have it: a checkpoint of the bare encoder has no head for masked tokens."""
    if any(name.startswith("cls.predictions.") for name in state):
        return spec
    return spec.replace(head_transform=False, head_bias=False, tie_embeddings=True)
