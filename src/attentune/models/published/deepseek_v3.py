"""Multi-head latent attention as in DeepSeek-V3 (arXiv:2412.19437).

    heads=latent(128, 512, rotary=64, query_rank=1536, key_width=128, value_width=128),
    similarity=scaled_dot(scale=0.1352...), mask=causal,
    position=rotary_yarn(40, 4096, pairs=neighbours, mscale=1.0, mscale_all_dim=1.0)

Models with dense networks alone (`first_k_dense_replace` no less than their depth); those with experts are refused.
With YaRN they also multiply all scores by m(mscale_all_dim)^2, which is why the similarity has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from attentune.errors import CheckpointError
from attentune.mechanisms.latent import Latent
from attentune.mechanisms.rotary_yarn import sharpening
from attentune.models.published._config import Config
from attentune.models.published._llama import WITHOUT, around, model, rope_parameters, rotary
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec

EXPERTS = (  # of networks that the check below rules out
    *("moe_intermediate_size", "moe_layer_freq", "n_shared_experts", "routed_scaling_factor", "n_group", "topk_group"),
    *("num_experts_per_tok", "norm_topk_prob", "output_router_logits", "scoring_func", "topk_method", "aux_loss_alpha"),
    *("seq_aux", "ep_size"),
)
LATENT_QUERIES = {"q_latent": "q_a_proj", "q_norm": "q_a_layernorm", "q": "q_b_proj"}


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a `config.json` of `model_type` deepseek_v3 describes.

    Raises:
        SpecError: a value that is not supported: experts, biases.
    """
    read = Config("deepseek_v3", config)
    heads, depth = read.size("num_attention_heads"), read.size("num_hidden_layers")
    read.only("attention_bias", False)
    read.only("num_key_value_heads", heads)
    if read.take("n_routed_experts", 256) and (dense := read.take("first_k_dense_replace", 3)) < depth:
        read.refuse("first_k_dense_replace", dense, f"all {depth} layers need a dense network")
    read.skip(*EXPERTS, "first_k_dense_replace", "num_nextn_predict_layers", "qk_head_dim", "head_dim")
    still, turned = read.size("qk_nope_head_dim"), read.size("qk_rope_head_dim")
    asked = f"query_rank={read.size('q_lora_rank')}, " if read.take("q_lora_rank", None) is not None else ""
    latent = (
        f"latent({heads}, {read.size('kv_lora_rank')}, rotary={turned}, {asked}"
        f"key_width={still}, value_width={read.size('v_head_dim')})"
    )
    pairs = {"pairs": "neighbours"} if read.flag("rope_interleave", True) else {}
    given = rope_parameters(read)
    sharpened = 1.0
    if given.get("rope_type", "default") != "default" and given.get("mscale_all_dim"):
        sharpened = sharpening(given.get("factor", 1.0), given["mscale_all_dim"]) ** 2  # `rotary` refuses none
    similarity = "" if sharpened == 1.0 else f"similarity=scaled_dot(scale={sharpened / sqrt(still + turned)}), "
    return model(read, [f"heads={latent}, {similarity}position={rotary(read, **pairs)}, mask=causal"])


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `DeepseekV3ForCausalLM`.

    The module that predicts a second token, which only speculative decoding uses, is left out.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("deepseek_v3", state, prefix="model.", without=(*WITHOUT, rf"layers\.{spec.depth}\..*"))
    mapped = around(read, spec)
    heads = spec.attentions[0].heads
    if not isinstance(heads, Latent):
        raise CheckpointError(f"deepseek_v3 weights do not fit the spec: heads={heads.kind} are not latent")
    of_value = heads.value_width or spec.width // heads.heads
    names = {"latent": "kv_a_proj_with_mqa", "norm": "kv_a_layernorm", "out": "o_proj"}
    names |= {"q": "q_proj"} if heads.query_rank is None else LATENT_QUERIES
    for index in range(spec.depth):
        theirs, ours = f"layers.{index}.self_attn.", f"layers.{index}.attention.heads.0."
        mapped |= {f"{ours}{name}": read.take(f"{theirs}{source}.weight") for name, source in names.items()}
        up = read.take(f"{theirs}kv_b_proj.weight").unflatten(0, (heads.heads, -1))  # [H D+V rank]
        k, v = up.split([up.shape[1] - of_value, of_value], 1)
        mapped |= {f"{ours}up_k": k.flatten(0, 1), f"{ours}up_v": v.flatten(0, 1)}
    return read.finish(mapped, spec)
