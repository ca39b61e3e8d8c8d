"""Gated attention (arXiv:2505.06708) as in the full-attention layers of Qwen3-Next.

    heads=grouped(16, 2, head_width=256), position=rotary(base=10000000.0, fraction=0.25), mask=causal,
    scores=qk_norm, combine=gate(per=element)

Models of such layers alone, with dense networks; those with linear layers or experts are refused. Its norms multiply
by 1 + weight, ours by the gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attentune.models.published._config import Config
from attentune.models.published._llama import WITHOUT, around, heads, model, rotary
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec

OTHER_LAYERS = (  # sizes of linear layers and of experts, which the checks below rule out
    *(f"linear_{name}" for name in ("conv_kernel_dim", "key_head_dim", "value_head_dim")),
    *("linear_num_key_heads", "linear_num_value_heads", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *(
        "num_experts_per_tok",
        "norm_topk_prob",
        "output_router_logits",
        "router_aux_loss_coef",
        "full_attention_interval",
    ),
)


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a `config.json` of `model_type` qwen3_next describes.

    Raises:
        SpecError: a value that is not supported: linear layers, experts.
    """
    read = Config("qwen3_next", config)
    depth = read.size("num_hidden_layers")
    read.only("attention_bias", False)
    read.only("rms_norm_eps", 1e-6)  # that of qk_norm
    read.only("layer_types", ["full_attention"] * depth)
    dense, step = set(read.take("mlp_only_layers", [])), read.size("decoder_sparse_step", 1)
    if (experts := read.take("num_experts", 512)) and any(
        index not in dense and (index + 1) % step == 0 for index in range(depth)
    ):
        read.refuse("num_experts", experts, "every layer needs a dense network: num_experts=0 or mlp_only_layers")
    read.skip(*OTHER_LAYERS)
    read.values.setdefault("partial_rotary_factor", 0.25)
    line = f"heads={heads(read)}, position={rotary(read)}, mask=causal, scores=qk_norm, combine=gate(per=element)"
    return model(read, [line])


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `Qwen3NextForCausalLM`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("qwen3_next", state, prefix="model.", without=WITHOUT)
    mapped = around(read, spec)
    for name in [name for name in mapped if name.endswith("norm.gain")]:
        mapped[name] = 1 + mapped[name]
    for index in range(spec.depth):
        theirs, ours = f"layers.{index}.self_attn.", f"layers.{index}.attention."
        of_head = read.take(f"{theirs}q_norm.weight").shape[0]
        rows = read.take(f"{theirs}q_proj.weight").unflatten(0, (-1, 2, of_head))  # [H 2 D E]: a head's query, its gate
        q, gate = (part.flatten(0, 1) for part in rows.unbind(1))
        k, v = (read.take(f"{theirs}{name}_proj.weight") for name in "kv")
        mapped[f"{ours}heads.0.qkv"] = torch.cat([q, k, v])
        mapped[f"{ours}heads.0.out"] = read.take(f"{theirs}o_proj.weight")
        mapped[f"{ours}combine.0.weight"] = gate
        for name in "qk":
            mapped[f"{ours}scores.0.{name}_gain"] = 1 + read.take(f"{theirs}{name}_norm.weight")
    return read.finish(mapped, spec)
