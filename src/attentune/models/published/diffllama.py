"""Differential attention in a Llama (arXiv:2410.05258).

    heads=32, position=rotary, mask=causal, combine=differential

Pairs are heads h and h + H/2 on both sides, so that no head moves; lambda begins by layer, as in the paper.
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
    """The model that a `config.json` of `model_type` diffllama describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("diffllama", config)
    read.only("attention_bias", False)
    read.only("rms_norm_eps", 1e-5)  # that of the norm of each pair
    read.skip("lambda_std_dev")  # how lambda's vectors are drawn
    line = f"heads={heads(read)}, position={rotary(read)}, mask=causal, combine=differential"
    return model(read, [line], epsilon=1e-5)


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `DiffLlamaForCausalLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("diffllama", state, prefix="model.", without=WITHOUT)
    mapped = around(read, spec) | projections(read, spec)
    for index in range(spec.depth):
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            mapped[f"layers.{index}.attention.combine.0.{name}"] = read.take(f"layers.{index}.self_attn.{name}")
    return read.finish(mapped, spec)
