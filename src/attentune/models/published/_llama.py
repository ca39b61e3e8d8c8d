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


def model(config: Config, lines: list[str], *, epsilon: float = 1e-6) -> ModelSpec:
    """The model around the attentions `lines`, one for each layer; `epsilon` of its norms where nothing is said."""
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
        norm_epsilon=config.number("rms_norm_eps", epsilon),
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


def rope_parameters(config: Config) -> dict[str, Any]:
    """What is said of the rotation, in `rope_parameters` or in the older `rope_theta` and `rope_scaling`."""
    base, fraction = config.number("rope_theta", 10000.0), config.number("partial_rotary_factor", 1.0)
    given: dict[str, Any] = {"rope_theta": base, "partial_rotary_factor": fraction}
    for held in (config.take("rope_scaling", {}), config.take("rope_parameters", {})):
        named = {"rope_type" if key == "type" else key: value for key, value in held.items()}
        given |= {key: value for key, value in named.items() if value is not None}
    return given


def rotary(config: Config, **fields: Any) -> str:
    """The text form of the rotation, with `fields` that the family knows of."""
    given = rope_parameters(config)
    kind = given.pop("rope_type", "default")
    if kind not in ROTATIONS:
        config.refuse("rope_type", kind, f"known: {', '.join(ROTATIONS)}")
    name, words = ROTATIONS[kind]
    fields["base"] = float(given.pop("rope_theta"))
    fields["fraction"] = float(given.pop("partial_rotary_factor"))
    if kind in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", config.size("max_position_embeddings"))
    for theirs in REQUIRED & words.keys() - given.keys():
        raise SpecError(f"{config.family} configuration: rope_type={kind!r} needs {theirs}")
    if kind == "yarn" and not (given.get("mscale") and given.get("mscale_all_dim")):  # one alone is no quotient
        given.pop("mscale", None)
        given.pop("mscale_all_dim", None)
    for theirs, ours in words.items():
        if theirs in given:
            fields[ours] = given.pop(theirs)
    for left in given:
        raise SpecError(f"{config.family} configuration: rope_parameters.{left} is unknown for rope_type={kind!r}")
    return f"{name}({', '.join(f'{key}={value}' for key, value in fields.items())})"


REQUIRED = {"factor", "low_freq_factor", "high_freq_factor"}
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
