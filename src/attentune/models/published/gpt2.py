"""GPT-2 (Radford et al., 2019).

heads=12, mask=causal
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attentune.mechanisms import layer
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import FeedForwardSpec, ModelSpec

WITHOUT = (r"h\.\d+\.attn\.(masked_)?bias",)
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a `config.json` of `model_type` gpt2 describes.

    Raises:
        SpecError: a value that is not supported.
    """
    read = Config("gpt2", config)
    width = read.size("n_embd")
    read.only("scale_attn_weights", True)
    read.only("scale_attn_by_inverse_layer_idx", False)
    read.only("add_cross_attention", False)
    read.skip("reorder_and_upcast_attn", "resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx")
    read.skip(*(f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")))
    found = ModelSpec(
        vocab_size=read.size("vocab_size"),
        width=width,
        depth=read.size("n_layer"),
        context=read.size("n_positions"),
        layers=(layer(f"heads={read.size('n_head')}, mask=causal"),),
        feed_forward=FeedForwardSpec(
            name=read.choice("activation_function", ACTIVATIONS, "gelu_new"),
            hidden=read.size("n_inner", 4 * width),
        ),
        position="learned",
        norm="layer",
        norm_epsilon=read.number("layer_norm_epsilon", 1e-5),
        bias=True,
        tie_embeddings=read.flag("tie_word_embeddings", True),
    )
    read.finish()
    return found


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `GPT2LMHeadModel`, whose matrices are stored [in, out].

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("gpt2", state, prefix="transformer.", without=WITHOUT)
    mapped = {"embedding.table": read.take("wte.weight"), "embedding.places": read.take("wpe.weight")}
    if spec.tie_embeddings:
        read.same("lm_head.weight", "wte.weight")
    else:
        mapped["head"] = read.take("lm_head.weight")
    norms = {"norm": "ln_f"}
    for index in range(spec.depth):
        theirs, ours = f"h.{index}.", f"layers.{index}."
        norms |= {f"{ours}attention_norm": f"{theirs}ln_1", f"{ours}feed_forward_norm": f"{theirs}ln_2"}
        for name, source in {
            "attention.heads.0.qkv": "attn.c_attn",
            "attention.heads.0.out": "attn.c_proj",
            "feed_forward.up": "mlp.c_fc",
            "feed_forward.down": "mlp.c_proj",
        }.items():
            mapped[f"{ours}{name}"] = read.take(f"{theirs}{source}.weight").T
            mapped[f"{ours}{name}_bias"] = read.take(f"{theirs}{source}.bias")
    for name, source in norms.items():
        mapped[f"{name}.gain"] = read.take(f"{source}.weight")
        mapped[f"{name}.bias"] = read.take(f"{source}.bias")
    return read.finish(mapped, spec)
