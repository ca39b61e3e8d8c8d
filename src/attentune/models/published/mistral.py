"""Mistral (arXiv:2310.06825).

    heads=32/8, position=rotary, mask=window(4096)

Both sides count the query's own key: a `sliding_window` of w shows w keys.
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
    """The model that a `config.json` of `model_type` mistral describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("mistral", config)
    window = read.take("sliding_window", None)
    mask = "causal" if window is None else f"window({window})"
    line = f"heads={heads(read)}, position={rotary(read)}, mask={mask}"
    return model(read, [line])


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `MistralForCausalLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("mistral", state, prefix="model.", without=WITHOUT)
    return read.finish(around(read, spec) | projections(read, spec), spec)
