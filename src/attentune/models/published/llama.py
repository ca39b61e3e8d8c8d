"""Llama and Llama 3 (arXiv:2302.13971, arXiv:2407.21783).

heads=32/8, position=rotary_llama3(base=500000.0, factor=8.0, context=8192), mask=causal
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attentune.models.published._config import Config
from attentune.models.published._llama import WITHOUT, around, heads, model, projections, rotary
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a `config.json` of `model_type` llama describes.

    Raises:
        SpecError: a value that is not supported, such as biases.
    """
    read = Config("llama", config)
    read.only("attention_bias", False)
    read.only("mlp_bias", False)
    line = f"heads={heads(read)}, position={rotary(read)}, mask=causal"
    return model(read, [line])


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `LlamaForCausalLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("llama", state, prefix="model.", without=WITHOUT)
    return read.finish(around(read, spec) | projections(read, spec), spec)
