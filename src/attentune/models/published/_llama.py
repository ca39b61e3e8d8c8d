"""What the descendants of Llama share: rotary positions, RMSNorm before each part, a gated network, no biases."""

from __future__ import annotations

from typing import Any

import torch

from attentune.errors import SpecError
from attentune.mechanisms import layer
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec

WITHOUT = (r".*rotary_emb\.inv_freq",)


def model(config: Config, lines: list[str]) -> ModelSpec:
    """The model around the attentions `lines`, one for each layer."""
    if len(set(lines)) == 1:
        lines = lines[:1]
    spec = ModelSpec(
        vocab_size=config.size("vocab_size"),
        width=config.size("hidden_size"),
        depth=config.size("num_hidden_layers"),
        context=config.size("max_position_embeddings"),
        layers=tuple(map(layer, lines)),
        feed_forward=FeedForwardSpec(
            name=config.choice("hidden_act", {"silu": "swiglu"}),
            hidden=config.size("intermediate_size"),
        ),
        norm="rms",
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )
    config.finish()
    return spec


def heads(config: Config) -> str:
    """`32`, `32/8`, or with a width of their own."""
    number = config.size("num_attention_heads")
    groups, width = config.size("num_key_value_heads", number), config.size("hidden_size")
    if (own := config.take("head_dim", None)) is not None and own * number != width:
        return f"grouped({number}, {groups}, head_width={own})"
    return f"{number}" if groups == number else f"{number}/{groups}"


def rotary(config: Config, **fields: Any) -> str:
    """The rotation, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`."""
    base = config.number("rope_theta", 10000.0)
    given = dict(config.take("rope_scaling", {})) | dict(config.take("rope_parameters", {}))
    given = {key: value for key, value in given.items() if value is not None}
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    fields = {"base": float(given.pop("rope_theta", base)), **fields}
    if (fraction := float(given.pop("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)))) != 1:
        fields["fraction"] = fraction
    if kind not in ROTATIONS:
        config.refuse("rope_type", kind, f"known: {', '.join(ROTATIONS)}")
    name, words = ROTATIONS[kind]
    for theirs, ours in words.items():
        if theirs in given:
            fields[ours] = given.pop(theirs)
    for left in given:
        raise SpecError(f"{config.family} configuration: rope_parameters.{left} is unknown for rope_type={kind!r}")
    return f"{name}({', '.join(f'{key}={value}' for key, value in fields.items())})"


ROTATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "default": ("rotary", {}),
    "linear": ("rotary_linear", {"factor": "factor"}),
    "llama3": (
        "rotary_llama3",
        {
            "factor": "factor",
            "low_freq_factor": "low",
            "high_freq_factor": "high",
            "original_max_position_embeddings": "context",
        },
    ),
    "yarn": (
        "rotary_yarn",
        {
            "factor": "factor",
            "original_max_position_embeddings": "context",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "truncate": "truncate",
            "attention_factor": "attention_factor",
            "mscale": "mscale",
            "mscale_all_dim": "mscale_all_dim",
        },
    ),
}


def around(state: State, spec: ModelSpec) -> dict[str, Tensor]:
    """Everything but the attentions."""
    mapped = {"embedding.table": state.take("embed_tokens.weight"), "norm.gain": state.take("norm.weight")}
    if spec.tie_embeddings:
        state.same("lm_head.weight", "embed_tokens.weight")
    else:
        mapped["head"] = state.take("lm_head.weight")
    for index in range(spec.depth):
        theirs, ours = f"layers.{index}.", f"layers.{index}."
        mapped[f"{ours}attention_norm.gain"] = state.take(f"{theirs}input_layernorm.weight")
        mapped[f"{ours}feed_forward_norm.gain"] = state.take(f"{theirs}post_attention_layernorm.weight")
        gate, up = (state.take(f"{theirs}mlp.{name}_proj.weight") for name in ("gate", "up"))
        mapped[f"{ours}feed_forward.up"] = torch.cat([gate, up])
        mapped[f"{ours}feed_forward.down"] = state.take(f"{theirs}mlp.down_proj.weight")
    return mapped


def projections(state: State, spec: ModelSpec) -> dict[str, Tensor]:
    """q, k, v and the way back, of every layer."""
    mapped = {}
    for index in range(spec.depth):
        theirs, ours = f"layers.{index}.self_attn.", f"layers.{index}.attention.heads.0."
        mapped[f"{ours}qkv"] = torch.cat([state.take(f"{theirs}{name}_proj.weight") for name in "qkv"])
        mapped[f"{ours}out"] = state.take(f"{theirs}o_proj.weight")
    return mapped
