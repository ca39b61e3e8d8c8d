"""Qwen3 (arXiv:2505.09388).

heads=grouped(16, 8, head_width=128), position=rotary(base=1000000.0), mask=causal, scores=qk_norm
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
    """The model that a `config.json` of `model_type` qwen3 describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("qwen3", config)
    read.only("attention_bias", False)
    read.only("rms_norm_eps", 1e-6)  # that of qk_norm
    depth = read.size("num_hidden_layers")
    window = read.take("sliding_window", None) if read.flag("use_sliding_window", False) else None
    first = read.take("max_window_layers", 28)  # layers from here on have the window, where no list says otherwise
    read.skip("sliding_window")
    by_layer = ["sliding_attention" if window and index >= first else "full_attention" for index in range(depth)]
    masks = {"full_attention": "causal", "sliding_attention": f"window({window})"}
    kinds = read.take("layer_types", by_layer)
    for kind in kinds:
        if kind not in masks or (kind == "sliding_attention" and window is None):
            read.refuse("layer_types", kind, "expected full_attention, or sliding_attention with use_sliding_window")
    turn = rotary(read)
    lines = [f"heads={heads(read)}, position={turn}, mask={masks[kind]}, scores=qk_norm" for kind in kinds]
    return model(read, lines)


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `Qwen3ForCausalLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("qwen3", state, prefix="model.", without=WITHOUT)
    mapped = around(read, spec) | projections(read, spec)
    for index in range(spec.depth):
        for name in "qk":
            gain = read.take(f"layers.{index}.self_attn.{name}_norm.weight")
            mapped[f"layers.{index}.attention.scores.0.{name}_gain"] = gain
    return read.finish(mapped, spec)
