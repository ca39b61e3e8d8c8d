from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.layers.state import KeyValueCache, LayerState
from attentune.mechanisms import attention
from attentune.mechanisms.latent import Latent
from attentune.mechanisms.rotary_yarn import sharpening
from attentune.models.decoder import Decoder
from attentune.spec.model import LayerSpec, ModelSpec


def test_one_number_by_hand() -> None:
    layer = Attention(attention("heads=latent(1, 1)"), width=1)
    held = layer.held["heads"][0]
    with torch.no_grad():
        for name, number in {"q": 1.0, "latent": 2.0, "up_k": 0.5, "up_v": 4.0, "out": 1.0, "norm": 1.0}.items():
            getattr(held, name).fill_(number)
    # x = 3, -5: the normalised latents are 1 and -1, keys .5 and -.5, values 4 and -4
    y = layer(torch.tensor([[[3.0], [-5.0]]]), Layout.plain(2)).y[0, :, 0]
    first, second = torch.tanh(torch.tensor(1.5)), torch.tanh(torch.tensor(-2.5))  # (e^s - e^-s) / (e^s + e^-s)
    assert torch.allclose(y, torch.stack([4 * first, 4 * second]), atol=1e-5)


def test_equals_the_formula_written_out() -> None:
    heads, width, rank, turned = 2, 8, 3, 4
    layer = Attention(attention("heads=latent(2, 3, rotary=4), position=rotary, mask=causal"), width=width).double()
    w = layer.held["heads"][0]
    x = torch.randn(1, 5, width, dtype=torch.float64)
    down = x[0] @ w.latent.T
    latent = down[:, :rank]
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    angles = torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotate(columns: torch.Tensor) -> torch.Tensor:
        spun = torch.complex(columns[:, :2], columns[:, 2:]) * turn
        return torch.cat([spun.real, spun.imag], -1)

    outputs = []
    for head in range(heads):
        q = (x[0] @ w.q.T).view(5, heads, 4 + turned)[:, head]
        q = torch.cat([q[:, :4], rotate(q[:, 4:])], -1)
        k = torch.cat([latent @ w.up_k.view(heads, 4, rank)[head].T, rotate(down[:, rank:])], -1)
        s = (q @ k.T / (4 + turned) ** 0.5).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf"))
        outputs.append(s.softmax(-1) @ (latent @ w.up_v.view(heads, 4, rank)[head].T))
    expected = torch.cat(outputs, -1) @ w.out.T
    assert torch.allclose(layer(x, Layout.plain(5)).y[0], expected, atol=1e-12)


def test_the_cache_holds_the_latent_alone() -> None:
    layer = Attention(attention("heads=latent(4, 6, rotary=2), position=rotary, mask=causal"), width=16)
    state = LayerState(cache=KeyValueCache())
    with torch.no_grad():
        layer(torch.randn(1, 5, 16), Layout.plain(5), state=state)
    assert state.cache is not None
    assert {name: tuple(held.shape[1::2]) for name, held in state.cache.buffers.items()} == {
        "latent": (1, 6),
        "rotary_key": (1, 2),
    }
    assert layer.spec.heads.entry_shapes(layer.dims) == {"latent": (1, 6), "rotary_key": (1, 2)}


def test_biases_are_used_where_the_model_has_them() -> None:
    layer = Attention(attention("heads=latent(2, 3)"), width=4, bias=True)
    x = torch.randn(1, 3, 4)
    before = layer(x, Layout.plain(3)).y
    with torch.no_grad():
        layer.held["heads"][0].out_bias.add_(1.0)
    assert torch.allclose(layer(x, Layout.plain(3)).y, before + 1.0, atol=1e-6)


def test_equals_deepseek() -> None:
    deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    configuration = pytest.importorskip("transformers.models.deepseek_v3.configuration_deepseek_v3")
    yarn = {"factor": 4.0, "original_max_position_embeddings": 8, "mscale": 1.0, "mscale_all_dim": 1.0}
    for query_rank in (None, 5):
        config = configuration.DeepseekV3Config(
            hidden_size=12,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            q_lora_rank=query_rank,
            kv_lora_rank=6,
            qk_nope_head_dim=3,
            qk_rope_head_dim=4,
            v_head_dim=7,
            attention_bias=query_rank is not None,
            rope_parameters={"rope_type": "yarn", "rope_theta": 100.0, **yarn},
            attn_implementation="eager",
        )
        theirs = deepseek.DeepseekV3Attention(config, layer_idx=0)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_()
        position = "rotary_yarn(4.0, 8, base=100.0, pairs=neighbours, mscale=1.0, mscale_all_dim=1.0)"
        rank = f"rotary=4, query_rank={str(query_rank).lower()}, key_width=3, value_width=7"
        scores = f"temperature(value={sharpening(4.0) ** -2}, learned=false)"
        text = f"heads=latent(2, 6, {rank}), position={position}, mask=causal, scores={scores}"
        ours = Attention(attention(text), width=12, bias=query_rank is not None)
        up = theirs.kv_b_proj.weight.view(2, 3 + 7, 6)
        named = {
            "latent": theirs.kv_a_proj_with_mqa.weight,
            "norm": theirs.kv_a_layernorm.weight,
            "up_k": up[:, :3].reshape(6, 6),
            "up_v": up[:, 3:].reshape(14, 6),
            "out": theirs.o_proj.weight,
        }
        if query_rank is None:
            named["q"] = theirs.q_proj.weight
        else:
            named |= {
                "q_latent": theirs.q_a_proj.weight,
                "q_latent_bias": theirs.q_a_proj.bias,
                "q_norm": theirs.q_a_layernorm.weight,
                "q": theirs.q_b_proj.weight,
                "latent_bias": theirs.kv_a_proj_with_mqa.bias,
                "out_bias": theirs.o_proj.bias,
            }
        ours.held["heads"][0].load_state_dict(named, strict=True)
        x = torch.randn(2, 6, 12)
        cos_sin = deepseek.DeepseekV3RotaryEmbedding(config)(x, torch.arange(6)[None])
        hidden = torch.full((6, 6), float("-inf")).triu(1)[None, None]
        expected, _ = theirs(x, position_embeddings=cos_sin, attention_mask=hidden)
        assert torch.allclose(ours(x, Layout.plain(6)).y, expected, atol=1e-4, rtol=1e-4)


def test_a_query_latent_does_not_touch_the_cache() -> None:
    layer = Attention(attention("heads=latent(3, 5, query_rank=2, key_width=4, value_width=6)"), width=8)
    assert layer.spec.heads.entry_shapes(layer.dims) == {"latent": (1, 5)}
    assert (layer.dims.head_width, layer.dims.value_width) == (4, 6)  # 3 heads need not divide the width
    assert layer(torch.randn(1, 4, 8), Layout.plain(4)).y.shape == (1, 4, 8)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="rotary columns come in pairs, got rotary=3"):
        Latent(heads=2, rank=4, rotary=3).dims(width=8, source_width=8, depth=1, bias=False, cross=False)
    with pytest.raises(SpecError, match="heads must divide the width, got heads=3, width=8"):
        Attention(attention("heads=latent(3, 5, key_width=4)"), width=8)
    with pytest.raises(SpecError, match="needs columns to turn"):
        attention("heads=latent(2, 4), position=rotary")
    with pytest.raises(SpecError, match="qk_norm changes whole keys"):
        attention("heads=latent(2, 4), scores=qk_norm")


def test_zero_outputs_at_the_start_leave_the_latent_alone() -> None:
    layers = (LayerSpec(attention=attention("heads=latent(2, 3), mask=causal")),)
    model = Decoder(ModelSpec(vocab_size=5, width=4, depth=1, layers=layers, output_init="zero"))
    zero = {name for name, parameter in model.named_parameters() if (parameter == 0).all()}
    assert {name for name in zero if ".heads." in name} == {"layers.0.attention.heads.0.out"}
