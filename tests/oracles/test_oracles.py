"""Each oracle against numbers worked out by hand or a special case with a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from oracles.adaptive_span import adaptive_span_attention, soft_mask, span_penalty
from oracles.arrays import Array, Weights, causal_mask, layer_norm, merge_heads, rms_norm, softmax, split_heads
from oracles.gated_attention import attention_heads, gated_attention, pre_norm_sublayer
from oracles.halting import halt
from oracles.linear_mixers import (
    delta_rule,
    elu_plus_one,
    favor_attention,
    gated_delta_rule,
    head_norm,
    l2_normalise,
    linear_attention,
    multi_scale_retention,
    positive_features,
    retention,
    retention_decays,
    retention_parallel,
    rotate,
    rotation_angles,
)
from oracles.moba import moba_attention, select_blocks
from oracles.realformer import gelu, residual_attention
from oracles.realformer import stack_forward as realformer_stack
from oracles.shaw import relative_index, shaw_attention
from oracles.talking_heads import talking_heads_attention
from oracles.transformer_2017 import (
    decode,
    embed,
    encode,
    forward,
    multi_head_attention,
    scaled_dot_product_attention,
    sinusoidal_positions,
)
from oracles.transformer_xl import language_model, layer_forward, relative_attention, relative_sinusoid, stack_forward


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def causal_heads(q: Array, k: Array, v: Array) -> Array:
    """Plain causal softmax attention in matrix form, written apart from every oracle."""
    scores = np.einsum("hid,hjd->hij", q, k) / math.sqrt(q.shape[2])
    weights = np.exp(scores) * np.tril(np.ones(scores.shape[1:]))
    mixed: Array = np.einsum("hij,hjd->hid", weights / weights.sum(-1, keepdims=True), v)
    return mixed


# Shared arrays


def test_norms_and_softmax_by_hand() -> None:
    x = np.array([[1.0, 3.0]])
    assert_allclose(layer_norm(x, {}, "n", eps=0.0), [[-1.0, 1.0]])
    assert_allclose(layer_norm(x, {"n.weight": np.array([2.0, 3.0]), "n.bias": np.ones(2)}, "n", 0.0), [[-1.0, 4.0]])
    assert_allclose(rms_norm(np.array([[3.0, 4.0]]), {}, "n", 0.0), np.array([[3.0, 4.0]]) / math.sqrt(12.5))
    assert_allclose(softmax(np.array([0.0, math.log(3.0), 9.0]), np.array([True, True, False])), [0.25, 0.75, 0.0])
    assert_allclose(softmax(np.zeros(2), np.zeros(2, dtype=np.bool_)), 0.0)
    assert causal_mask(2, 3).tolist() == [[True, True, False], [True, True, True]]
    heads = split_heads(np.arange(8.0).reshape(2, 4), 2)
    assert_allclose(heads[1], [[2.0, 3.0], [6.0, 7.0]])
    assert_allclose(merge_heads(heads), np.arange(8.0).reshape(2, 4))


# The 2017 model


def transformer_weights(d: int, d_ff: int, vocabulary: int, layers: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    weights = {"embedding.weight": rng.normal(size=(vocabulary, d))}
    for side, blocks in (("encoder", ["self"]), ("decoder", ["self", "cross"])):
        for layer in range(layers):
            at = f"{side}.{layer}"
            for block in blocks:
                for part in ("query", "key", "value", "output"):
                    weights[f"{at}.{block}.{part}.weight"] = 0.5 * rng.normal(size=(d, d))
                    weights[f"{at}.{block}.{part}.bias"] = 0.1 * rng.normal(size=d)
            weights[f"{at}.ffn.inner.weight"] = rng.normal(size=(d_ff, d))
            weights[f"{at}.ffn.inner.bias"] = rng.normal(size=d_ff)
            weights[f"{at}.ffn.outer.weight"] = rng.normal(size=(d, d_ff))
            for norm in [*[f"{block}_norm" for block in blocks], "ffn_norm"]:
                weights[f"{at}.{norm}.weight"] = 1.0 + 0.1 * rng.normal(size=d)
                weights[f"{at}.{norm}.bias"] = 0.1 * rng.normal(size=d)
    return weights


def test_sinusoidal_positions_by_hand() -> None:
    table = sinusoidal_positions(3, 4)
    assert_allclose(table[0], [0.0, 1.0, 0.0, 1.0])
    assert_allclose(table[2], [math.sin(2.0), math.cos(2.0), math.sin(0.02), math.cos(0.02)])


def test_dot_product_attention_by_hand() -> None:
    q, k, v = np.array([[2.0, 0.0, 0.0, 0.0]]), np.zeros((2, 4)), np.array([[1.0], [5.0]])
    k[1, 0] = math.log(3.0)
    assert_allclose(scaled_dot_product_attention(q, k, v, np.ones((1, 2), dtype=np.bool_)), [[0.25 * 1 + 0.75 * 5]])


def test_multi_head_attention_to_one_key_is_two_linear_maps() -> None:
    weights = transformer_weights(4, 8, 5, 1)
    x, memory = normal(1, 3, 4), normal(2, 1, 4)
    out = multi_head_attention(x, memory, weights, "encoder.0.self", 2, np.ones((3, 1), dtype=np.bool_))
    value = memory[0] @ weights["encoder.0.self.value.weight"].T + weights["encoder.0.self.value.bias"]
    expected = value @ weights["encoder.0.self.output.weight"].T + weights["encoder.0.self.output.bias"]
    assert_allclose(out, np.tile(expected, (3, 1)))


def test_multi_head_attention_agrees_with_matrix_form() -> None:
    weights = {name: value for name, value in transformer_weights(6, 8, 5, 1).items() if not name.endswith("bias")}
    x = normal(3, 5, 6)
    out = multi_head_attention(x, x, weights, "decoder.0.self", 3, causal_mask(5, 5))
    parts = [split_heads(x @ weights[f"decoder.0.self.{part}.weight"].T, 3) for part in ("query", "key", "value")]
    assert_allclose(out, merge_heads(causal_heads(*parts)) @ weights["decoder.0.self.output.weight"].T)


def test_no_layers_leaves_embedding_times_its_transpose() -> None:
    table = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    logits = forward(np.array([0]), np.array([2, 1]), {"embedding.weight": table}, 1)
    hidden = np.array([[math.sqrt(2) + 0.0, math.sqrt(2) + 1.0], [math.sin(1.0), 2 * math.sqrt(2) + math.cos(1.0)]])
    assert_allclose(logits, hidden @ table.T)
    biased = forward(
        np.array([0]), np.array([2]), {"embedding.weight": table, "output.bias": np.array([0.0, 1.0, 2.0])}, 1
    )
    assert_allclose(biased, logits[:1] + np.array([0.0, 1.0, 2.0]))


def test_zero_sublayers_leave_repeated_norms() -> None:
    weights = {
        name: np.zeros_like(value) for name, value in transformer_weights(4, 8, 5, 1).items() if "norm" not in name
    }
    weights["embedding.weight"] = normal(4, 5, 4)
    ids = np.array([3, 1])
    once = layer_norm(embed(ids, weights), {}, "none")
    assert_allclose(encode(ids, weights, 2), layer_norm(once, {}, "none"))
    assert_allclose(decode(ids, normal(5, 3, 4), weights, 2), layer_norm(layer_norm(once, {}, "n"), {}, "n"))


def test_one_token_encoder_layer_is_affine_then_relu() -> None:
    weights = transformer_weights(4, 8, 5, 1)
    x = 2.0 * weights["embedding.weight"][3] + [0.0, 1.0, 0.0, 1.0]
    value = weights["encoder.0.self.value.weight"] @ x + weights["encoder.0.self.value.bias"]
    x = x + weights["encoder.0.self.output.weight"] @ value + weights["encoder.0.self.output.bias"]
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    x = x * weights["encoder.0.self_norm.weight"] + weights["encoder.0.self_norm.bias"]
    inner = np.maximum(weights["encoder.0.ffn.inner.weight"] @ x + weights["encoder.0.ffn.inner.bias"], 0.0)
    x = x + weights["encoder.0.ffn.outer.weight"] @ inner
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    x = x * weights["encoder.0.ffn_norm.weight"] + weights["encoder.0.ffn_norm.bias"]
    assert_allclose(encode(np.array([3]), weights, 2), x[None])


def test_one_token_decoder_layer_in_order() -> None:
    weights = transformer_weights(4, 8, 5, 1)
    memory = normal(6, 1, 4)
    x = 2.0 * weights["embedding.weight"][3] + [0.0, 1.0, 0.0, 1.0]
    for block in ("self", "cross", "ffn"):
        at = f"decoder.0.{block}"
        if block == "ffn":
            inner = np.maximum(weights[f"{at}.inner.weight"] @ x + weights[f"{at}.inner.bias"], 0.0)
            x = x + weights[f"{at}.outer.weight"] @ inner
        else:
            value = weights[f"{at}.value.weight"] @ (x if block == "self" else memory[0]) + weights[f"{at}.value.bias"]
            x = x + weights[f"{at}.output.weight"] @ value + weights[f"{at}.output.bias"]
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weights[f"{at}_norm.weight"] + weights[f"{at}_norm.bias"]
    assert_allclose(decode(np.array([3]), memory, weights, 2), x[None])


def test_decoder_is_causal_and_source_padding_is_unseen() -> None:
    weights = transformer_weights(4, 8, 7, 2)
    source, target = np.array([1, 2, 3]), np.array([4, 5, 6, 0])
    whole = forward(source, target, weights, 2)
    assert whole.shape == (4, 7)
    assert_allclose(forward(source, target[:2], weights, 2), whole[:2])
    padded = forward(np.array([1, 2, 3, 6]), target, weights, 2, np.array([True, True, True, False]))
    assert_allclose(padded, whole)
    assert not np.allclose(forward(np.array([1, 2, 4]), target, weights, 2), whole)


# Transformer-XL


def xl_weights(d: int, d_ff: int, heads: int, layers: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for layer in range(layers):
        at = f"layers.{layer}"
        for part in ("query", "key", "position", "value", "output"):
            weights[f"{at}.attention.{part}.weight"] = rng.normal(size=(d, d))
        for bias in ("bias_u", "bias_v"):
            weights[f"{at}.attention.{bias}"] = rng.normal(size=(heads, d // heads))
        weights[f"{at}.ffn.inner.weight"] = rng.normal(size=(d_ff, d))
        weights[f"{at}.ffn.outer.weight"] = rng.normal(size=(d, d_ff))
        for norm in ("attention_norm", "ffn_norm"):
            weights[f"{at}.{norm}.weight"] = 1.0 + 0.1 * rng.normal(size=d)
            weights[f"{at}.{norm}.bias"] = 0.1 * rng.normal(size=d)
    return weights


def test_relative_sinusoid_by_hand() -> None:
    s, c = math.sin, math.cos
    assert_allclose(relative_sinusoid(3, 4), [s(3.0), c(3.0), s(0.03), c(0.03)])
    assert_allclose(relative_sinusoid(3, 4, "halves"), [s(3.0), s(0.03), c(3.0), c(0.03)])
    assert_allclose(relative_sinusoid(0, 4), sinusoidal_positions(1, 4)[0])


def test_relative_attention_by_hand() -> None:
    eye = np.eye(2)
    weights = {f"a.{part}.weight": eye for part in ("query", "key", "position", "value", "output")}
    weights |= {"a.bias_u": np.array([[1.0, 0.0]]), "a.bias_v": np.array([[0.0, 1.0]])}
    memory, h = np.array([[1.0, 2.0]]), np.array([[0.5, -1.0]])
    far = (0.5 - 2.0) + (0.5 * math.sin(1.0) - math.cos(1.0)) + 1.0 + math.cos(1.0)
    near = (0.25 + 1.0) + (0.0 - 1.0) + 0.5 + 1.0
    odds = math.exp((far - near) / math.sqrt(2.0))
    expected = (odds * memory + h) / (1.0 + odds)
    assert_allclose(relative_attention(h, memory, weights, "a", 1), expected)
    odds = math.exp(far - near)
    assert_allclose(relative_attention(h, memory, weights, "a", 1, scale=1.0), (odds * memory + h) / (1.0 + odds))


def test_relative_attention_without_position_or_biases_is_plain_attention() -> None:
    weights = xl_weights(6, 8, 3, 1)
    for name in ("position.weight", "bias_u", "bias_v"):
        weights[f"layers.0.attention.{name}"] *= 0.0
    h, memory = normal(1, 3, 6), normal(2, 2, 6)
    both = np.concatenate([memory, h])
    parts = [
        split_heads(both @ weights[f"layers.0.attention.{part}.weight"].T, 3) for part in ("query", "key", "value")
    ]
    expected = merge_heads(causal_heads(*parts))[2:] @ weights["layers.0.attention.output.weight"].T
    assert_allclose(relative_attention(h, memory, weights, "layers.0.attention", 3), expected)


def test_sinusoid_layouts_differ_by_a_column_order() -> None:
    weights = xl_weights(6, 8, 2, 1)
    h = normal(1, 4, 6)
    expected = relative_attention(h, h[:0], weights, "layers.0.attention", 2)
    weights["layers.0.attention.position.weight"] = weights["layers.0.attention.position.weight"][:, [0, 2, 4, 1, 3, 5]]
    assert_allclose(relative_attention(h, h[:0], weights, "layers.0.attention", 2, "halves"), expected)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_enough_memory_makes_segments_one_long_segment(pre_norm: bool) -> None:
    weights = xl_weights(4, 8, 2, 2)
    x = normal(1, 6, 4)
    whole = stack_forward([x], weights, 2, 0, pre_norm)[0]
    parts = stack_forward([x[:2], x[2:5], x[5:]], weights, 2, 6, pre_norm)
    assert_allclose(np.concatenate(parts), whole)
    alone = stack_forward([x[:2], x[2:5]], weights, 2, 0, pre_norm)
    assert_allclose(alone[1], stack_forward([x[2:5]], weights, 2, 0, pre_norm)[0])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_memory_holds_the_last_inputs_of_each_layer(pre_norm: bool) -> None:
    weights = xl_weights(4, 8, 2, 2)
    first, second, third = normal(1, 2, 4), normal(2, 2, 4), normal(3, 2, 4)
    empty = first[:0]
    low = layer_forward(first, empty, weights, "layers.0", 2, pre_norm)
    low2 = layer_forward(second, first, weights, "layers.0", 2, pre_norm)
    low3 = layer_forward(third, np.concatenate([first[1:], second]), weights, "layers.0", 2, pre_norm)
    expected = layer_forward(low3, np.concatenate([low[1:], low2]), weights, "layers.1", 2, pre_norm)
    assert_allclose(stack_forward([first, second, third], weights, 2, 3, pre_norm)[2], expected)


def test_zero_sublayers_leave_norms_or_the_input() -> None:
    weights = {name: np.zeros_like(value) for name, value in xl_weights(4, 8, 2, 1).items() if "norm" not in name}
    x = normal(1, 3, 4)
    assert_allclose(stack_forward([x], weights, 2, 4)[0], layer_norm(layer_norm(x, {}, "n"), {}, "n"))
    assert_allclose(stack_forward([x], weights, 2, 4, pre_norm=True)[0], x)
    weights["final_norm.weight"] = np.ones(4)
    assert_allclose(stack_forward([x], weights, 2, 4, pre_norm=True)[0], layer_norm(x, {}, "n"))
    table = normal(2, 5, 4)
    del weights["final_norm.weight"]
    logits = language_model([np.array([1, 2])], weights | {"embedding.weight": table}, 2, 4, pre_norm=True)
    assert_allclose(logits[0], 2.0 * table[[1, 2]] @ table.T)


# Gated attention


def gated_weights(d: int, heads: int, kv_heads: int, width: int, gates: int) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    rows = {"query": heads * width, "key": kv_heads * width, "value": kv_heads * width, "gate": gates}
    weights: dict[str, Array] = {f"{name}.weight": rng.normal(size=(count, d)) for name, count in rows.items()}
    weights["output.weight"] = rng.normal(size=(d, heads * width))
    return weights


def test_gate_of_zeros_halves_plain_attention() -> None:
    weights = gated_weights(4, 2, 2, 3, 6)
    weights["gate.weight"] *= 0.0
    x = normal(1, 5, 4)
    parts = [split_heads(x @ weights[f"{part}.weight"].T, 2) for part in ("query", "key", "value")]
    plain = merge_heads(causal_heads(*parts)) @ weights["output.weight"].T
    assert_allclose(gated_attention(x, weights, 2), plain / 2.0)
    weights["gate.bias"] = np.full(6, math.log(3.0))
    assert_allclose(gated_attention(x, weights, 2), 0.75 * plain)


def test_grouped_heads_share_keys_and_values() -> None:
    weights = gated_weights(4, 4, 2, 3, 4)
    x = normal(1, 5, 4)
    repeated = dict(weights)
    for part in ("key", "value"):
        blocks = weights[f"{part}.weight"].reshape(2, 3, 4)
        repeated[f"{part}.weight"] = blocks[[0, 0, 1, 1]].reshape(12, 4)
    assert_allclose(attention_heads(x, weights, 4, 2), attention_heads(x, repeated, 4, 4))
    assert_allclose(gated_attention(x, weights, 4, 2, "headwise"), gated_attention(x, repeated, 4, 4, "headwise"))


def test_gate_of_one_token_by_hand() -> None:
    x = np.array([[1.0, 2.0]])
    eye = np.eye(2)
    weights = {f"{name}.weight": eye for name in ("query", "key", "value", "output")}
    gate = np.array([[math.log(3.0), 0.0], [0.0, math.log(2.0)]])
    assert_allclose(gated_attention(x, weights | {"gate.weight": gate}, 2), [[0.75, 2.0 * 0.8]])
    assert_allclose(gated_attention(x, weights | {"gate.weight": gate}, 2, gate="headwise"), [[0.75, 2.0 * 0.8]])
    assert_allclose(gated_attention(x, weights | {"gate.weight": gate[:1]}, 1, gate="headwise"), [[0.75, 1.5]])


def test_headwise_gate_is_the_elementwise_gate_with_equal_rows() -> None:
    weights = gated_weights(4, 2, 1, 3, 2)
    x = normal(1, 5, 4)
    spread = weights | {"gate.weight": np.repeat(weights["gate.weight"], 3, axis=0)}
    assert_allclose(gated_attention(x, weights, 2, 1, "headwise"), gated_attention(x, spread, 2, 1))


def test_pre_norm_sublayer_gates_with_the_normed_state() -> None:
    weights = gated_weights(4, 2, 2, 3, 6)
    h = normal(1, 5, 4)
    rms = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5)
    assert_allclose(pre_norm_sublayer(h, weights, 2), h + gated_attention(rms, weights, 2))
    centred = layer_norm(h, {}, "n")
    assert_allclose(pre_norm_sublayer(h, weights, 2, norm="layer"), h + gated_attention(centred, weights, 2))


# RealFormer, adaptive span, talking heads, Shaw, MoBA


def test_residual_scores_by_hand() -> None:
    q, k, v = np.array([[[2.0, 0.0, 0.0, 0.0]]]), np.zeros((1, 2, 4)), np.array([[[1.0], [5.0]]])
    k[0, 1, 0] = math.log(2.0)
    previous = np.array([[[0.0, math.log(1.5)]]])
    out, scores = residual_attention(q, k, v, previous, np.ones((1, 2), dtype=np.bool_))
    assert_allclose(scores, [[[0.0, math.log(3.0)]]])
    assert_allclose(out, [[[0.25 * 1 + 0.75 * 5]]])


def test_residual_attention_adds_up_over_layers() -> None:
    q, k, v = normal(1, 2, 4, 3), normal(2, 2, 4, 3), normal(3, 2, 4, 3)
    plain, scores = residual_attention(q, k, v, None, causal_mask(4, 4))
    assert_allclose(plain, causal_heads(q, k, v))
    twice, doubled = residual_attention(q, k, v, scores, causal_mask(4, 4))
    assert_allclose(doubled, 2.0 * scores)
    assert_allclose(twice, causal_heads(2.0 * q, k, v))


def test_realformer_stack_with_a_silent_first_layer_doubles_scores() -> None:
    weights = {name: value for name, value in xl_weights(4, 8, 2, 2).items() if "norm" not in name}
    for name in list(weights):
        if name.endswith(("output.weight", "outer.weight")):
            weights[name] = weights[name] * (0.0 if "layers.0" in name else 1.0)
        if name.startswith(("layers.1.attention.q", "layers.1.attention.k")):
            weights[name] = weights[name.replace("layers.1", "layers.0")]
    x = normal(1, 5, 4)
    source = layer_norm(x, {}, "n")
    q, k, v = (split_heads(source @ weights[f"layers.1.attention.{p}.weight"].T, 2) for p in ("query", "key", "value"))
    h = x + merge_heads(causal_heads(2.0 * q, k, v)) @ weights["layers.1.attention.output.weight"].T
    inner = np.maximum(layer_norm(h, {}, "n") @ weights["layers.1.ffn.inner.weight"].T, 0.0)
    expected = h + inner @ weights["layers.1.ffn.outer.weight"].T
    assert_allclose(realformer_stack(x, weights, 2, causal_mask(5, 5), "relu", pre_norm=True), expected)


def test_realformer_post_norm_without_sublayers_and_gelu() -> None:
    weights = {name: np.zeros_like(value) for name, value in xl_weights(4, 8, 2, 1).items() if "norm" not in name}
    x = normal(1, 3, 4)
    expected = layer_norm(layer_norm(x, {}, "n"), {}, "n")
    assert_allclose(realformer_stack(x, weights, 2, causal_mask(3, 3)), expected)
    assert_allclose(gelu(np.array([0.0, 1.0, -1.0])), [0.0, 0.8413447460685429, -0.15865525393145707])


def test_soft_mask_by_hand() -> None:
    assert [soft_mask(x, 3.0, 4.0) for x in (0, 3, 4, 5, 7, 9)] == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    assert span_penalty(np.array([2.0, 4.0]), 0.5) == 1.5


def test_adaptive_span_by_hand() -> None:
    q, k, v = np.zeros((1, 4, 2)), np.zeros((1, 4, 2)), np.array([[[1.0], [2.0], [3.0], [4.0]]])
    out = adaptive_span_attention(q, k, v, np.array([0.0]), 2.0)
    assert_allclose(out[0, :, 0], [1.0, (0.5 * 1 + 2) / 1.5, (0.5 * 2 + 3) / 1.5, (0.5 * 3 + 4) / 1.5])
    out = adaptive_span_attention(q, k, v, np.array([0.0]), 2.0, include_self=False)
    assert_allclose(out[0, :, 0], [0.0, 1.0, 2.0, 3.0])
    out = adaptive_span_attention(q, k, v, np.array([0.0]), 2.0, include_self=False, distance_offset=1)
    assert_allclose(out[0, :, 0], [0.0, 1.0, (0.5 * 1 + 2) / 1.5, (0.5 * 2 + 3) / 1.5])
    out = adaptive_span_attention(q, k, v, np.array([9.0]), 2.0, max_span=1)
    assert_allclose(out[0, :, 0], [1.0, 1.5, 2.5, 3.5])
    out = adaptive_span_attention(q, k, v, np.array([9.0]), 2.0, epsilon=1.0)
    assert_allclose(out[0, :, 0], [0.5, 0.75, 1.0, 1.25])
    positions = np.array([[0.0, 0.0], [math.log(3.0), 0.0]])
    out = adaptive_span_attention(
        q + np.array([1.0, 0.0]), k, v, np.array([9.0]), 2.0, positions=positions, max_span=1, scale=1.0
    )
    assert_allclose(out[0, :, 0], [1.0, (2 + 3 * 1) / 4, (3 + 3 * 2) / 4, (4 + 3 * 3) / 4])


def test_a_wide_span_is_plain_attention() -> None:
    q, k, v = normal(1, 2, 5, 3), normal(2, 2, 5, 3), normal(3, 2, 5, 4)
    expected = causal_heads(q, k, v)
    assert_allclose(adaptive_span_attention(q, k, v, np.array([4.0, 9.0]), 1.0), expected)
    assert_allclose(adaptive_span_attention(q[:, 3:], k, v, np.array([4.0, 9.0]), 1.0), expected[:, 3:])


def test_talking_heads_special_cases() -> None:
    q, k, v = normal(1, 2, 5, 3), normal(2, 2, 5, 3), normal(3, 2, 5, 4)
    eye, allowed = np.eye(2), causal_mask(5, 5)
    assert_allclose(talking_heads_attention(q, k, v, eye, eye, allowed), causal_heads(q, k, v))
    swap = eye[::-1]
    assert_allclose(talking_heads_attention(q, k, v, swap, eye, allowed), causal_heads(q[::-1], k[::-1], v))
    to_first = np.array([[1.0, 0.0], [1.0, 0.0]])
    out = talking_heads_attention(q, k, v, to_first, eye, allowed)
    joined = causal_heads(
        np.concatenate([q[:1], q[1:]], axis=2) * math.sqrt(2.0), np.concatenate([k[:1], k[1:]], 2), v[:1]
    )
    assert_allclose(out[0], joined[0])
    assert_allclose(out[1], [v[1, : i + 1].mean(axis=0) for i in range(5)])
    weighted = talking_heads_attention(q, k, v, eye, np.array([[2.0, 0.0], [3.0, 0.0]]), allowed)
    assert_allclose(weighted[0], 2 * causal_heads(q[:1], k[:1], v[:1])[0] + 3 * causal_heads(q[1:], k[1:], v[:1])[0])
    assert_allclose(weighted[1], 0.0)


def test_talking_heads_with_three_head_counts() -> None:
    q, k, v = normal(1, 2, 3, 4), normal(2, 2, 3, 4), normal(3, 4, 3, 2)
    mix, spread = normal(4, 2, 3), normal(5, 3, 4)
    scores = np.einsum("aid,ajd->aij", q, k)
    rows = np.exp(np.einsum("aij,ah->hij", scores, mix))
    rows /= rows.sum(-1, keepdims=True)
    expected = np.einsum("hij,hb,bjd->bid", rows, spread, v)
    everywhere = np.ones((3, 3), dtype=np.bool_)
    assert_allclose(talking_heads_attention(q, k, v, mix, spread, everywhere, scale=1.0), expected)


def test_shaw_by_hand() -> None:
    assert [relative_index(5, j, 2) for j in (0, 3, 4, 5, 6, 9)] == [0, 0, 1, 2, 3, 4]
    q, k, v = np.ones((1, 2, 1)), np.zeros((1, 2, 1)), np.array([[[10.0], [20.0]]])
    keys = np.log(np.array([[3.0], [1.0], [7.0]]))
    values = np.array([[1.0], [2.0], [4.0]])
    out = shaw_attention(q, k, v, keys, values, np.ones((2, 2), dtype=np.bool_))
    assert_allclose(out[0, :, 0], [(12 + 7 * 24) / 8, (3 * 11 + 22) / 4])


def test_shaw_without_tables_and_by_head() -> None:
    q, k, v = normal(1, 2, 5, 3), normal(2, 2, 5, 3), normal(3, 2, 5, 4)
    zeros = np.zeros((5, 3))
    allowed = causal_mask(5, 5)
    assert_allclose(shaw_attention(q, k, v, None, None, allowed), causal_heads(q, k, v))
    assert_allclose(shaw_attention(q, k, v, zeros, np.ones((5, 4)), allowed), causal_heads(q, k, v) + 1.0)
    table = normal(4, 5, 3)
    both = shaw_attention(q, k, v, np.stack([table, zeros]), None, allowed)
    assert_allclose(both[0], shaw_attention(q, k, v, table, None, allowed)[0])
    assert_allclose(both[1], causal_heads(q, k, v)[1])
    tail = shaw_attention(q[:, 3:], k, v, table, None, causal_mask(2, 5))
    assert_allclose(tail, shaw_attention(q, k, v, table, None, allowed)[:, 3:])


def test_moba_selection_by_hand() -> None:
    k = np.array([[[1.0], [3.0], [5.0], [1.0], [-9.0], [-9.0], [100.0]]])
    q = np.ones((1, 7, 1))
    assert select_blocks(q, k, 2, 2)[0].tolist() == [
        [True, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [False, True, True, False],
        [False, True, False, True],
    ]
    assert select_blocks(-q, k, 2, 2)[0, 6].tolist() == [False, False, True, True]
    assert select_blocks(0.0 * q, k, 2, 3)[0, 6].tolist() == [True, True, False, True]


def test_moba_special_cases() -> None:
    q, k, v = normal(1, 2, 7, 3), normal(2, 2, 7, 3), normal(3, 2, 7, 4)
    assert_allclose(moba_attention(q, k, v, 2, 4), causal_heads(q, k, v))
    assert_allclose(moba_attention(q, k, v, 7, 1), causal_heads(q, k, v))
    own = moba_attention(q, k, v, 3, 1)
    for start in (0, 3, 6):
        at = slice(start, start + 3)
        assert_allclose(own[:, at], causal_heads(q[:, at], k[:, at], v[:, at]))


# Linear mixers


def test_linear_attention_by_hand() -> None:
    assert_allclose(elu_plus_one(np.array([2.0, 0.0, -1.0])), [3.0, 1.0, math.exp(-1.0)])
    q, k = np.zeros((1, 2, 1)), np.array([[[0.0], [2.0]]])
    v = np.array([[[1.0], [5.0]]])
    assert_allclose(linear_attention(q, k, v), [[[1.0], [(1 + 15) / 4]]])
    assert_allclose(linear_attention(q, k, v, causal=False), [[[4.0], [4.0]]])
    assert_allclose(linear_attention(q, k, v, epsilon=1.0)[0, 0], [0.5])


def test_linear_attention_agrees_with_matrix_form() -> None:
    q, k, v = normal(1, 2, 5, 3), normal(2, 2, 5, 3), normal(3, 2, 5, 4)
    weights = np.einsum("hid,hjd->hij", elu_plus_one(q), elu_plus_one(k)) * np.tril(np.ones((5, 5)))
    assert_allclose(linear_attention(q, k, v), weights / weights.sum(-1, keepdims=True) @ v)


def test_positive_features_by_hand_and_in_the_mean() -> None:
    x, projection = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    assert_allclose(positive_features(x, projection), np.exp([[-1.5, -0.5, -2.5, 0.5]]) / 2.0)
    both = positive_features(x, projection[:2], hyperbolic=True)
    assert_allclose(both, np.exp([[-1.5, -0.5, -3.5, -4.5]]) / 2.0)
    x, y = normal(1, 1, 3) / 3.0, normal(2, 1, 3) / 3.0
    many = normal(3, 20_000, 3)
    for hyperbolic in (False, True):
        kernel = positive_features(x, many, hyperbolic) @ positive_features(y, many, hyperbolic).T
        assert_allclose(kernel, np.exp(x @ y.T), rtol=0.03)


def test_favor_attention_special_cases() -> None:
    q, k, v = normal(1, 1, 4, 3), normal(2, 1, 4, 3), normal(3, 1, 4, 2)
    silent = favor_attention(q, k, v, np.zeros((2, 3)))
    sizes = np.exp(-(k[0] ** 2).sum(1) / (2.0 * math.sqrt(3.0)))
    assert_allclose(silent[0], [sizes[: t + 1] @ v[0, : t + 1] / sizes[: t + 1].sum() for t in range(4)])
    close = favor_attention(q / 2, k / 2, v, normal(4, 10_000, 3))
    assert_allclose(close, causal_heads(q / 2, k / 2, v), rtol=0.05, atol=0.02)
    assert_allclose(favor_attention(q, k, v, np.zeros((1, 2, 3)), causal=False)[0, 0], silent[0, 3])


def test_retention_pieces_by_hand() -> None:
    assert_allclose(retention_decays(3), [31 / 32, 63 / 64, 127 / 128])
    assert_allclose(rotation_angles(4), [1.0, 0.01])
    assert_allclose(rotation_angles(4, "released"), [1.0, 0.0001])
    x = np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    quarter = np.array([math.pi / 2, math.pi])
    assert_allclose(rotate(x, quarter), [[1, 0, 1, 0], [0, 1, 0, -1]], atol=1e-15)
    assert_allclose(rotate(x, quarter, "halves"), [[1, 0, 1, 0], [0, 0, 1, -1]], atol=1e-15)
    q, k, v = np.ones((1, 3, 1)), np.ones((1, 3, 1)), np.array([[[1.0], [10.0], [100.0]]])
    assert_allclose(retention(q, k, v, np.array([0.5]))[0, :, 0], [1.0, 10.5, 105.25])
    assert_allclose(head_norm(np.array([[[1.0, 3.0]]]), eps=0.0), [[[-1.0, 1.0]]])
    assert_allclose(head_norm(np.array([[[3.0, 4.0]]]), "rms", 0.0), np.array([[[3.0, 4.0]]]) / math.sqrt(12.5))


def test_retention_forms_agree_and_depend_on_distance() -> None:
    q, k, v = normal(1, 2, 6, 4), normal(2, 2, 6, 4), normal(3, 2, 6, 3)
    decays = retention_decays(2)
    assert_allclose(retention(q, k, v, decays), retention_parallel(q, k, v, decays))
    angles = rotation_angles(4)
    early_q, early_k = (np.stack([rotate(head, angles) for head in x]) for x in (q, k))
    late_q, late_k = (np.stack([rotate(head, angles, start=9) for head in x]) for x in (q, k))
    assert_allclose(retention(late_q, late_k, v, decays), retention(early_q, early_k, v, decays))
    scaled = retention_parallel(q, k, v, decays, normalise=True)
    assert_allclose(head_norm(scaled, eps=0.0), head_norm(retention(q, k, v, decays), eps=0.0))


def test_multi_scale_retention_of_one_token_by_hand() -> None:
    eye = np.eye(2)
    weights = {f"{name}.weight": eye for name in ("query", "key", "value", "output")}
    weights["gate.weight"] = np.zeros((2, 2))
    weights["gate.bias"] = np.array([math.log(3.0), 0.0])
    x = np.array([[3.0, 1.0]])
    swish = 0.75 * math.log(3.0)
    assert_allclose(multi_scale_retention(x, weights, 1, eps=0.0), [[swish, 0.0]])
    state = 10.0 / math.sqrt(2.0) * x
    expected = state[0, 0] / math.sqrt((state**2).mean() + 1e-5)
    assert_allclose(multi_scale_retention(x, weights, 1, norm="rms"), [[swish * expected, 0.0]])
    gained = weights | {"group_norm.weight": np.array([2.0, 1.0]), "group_norm.bias": np.array([1.0, 5.0])}
    assert_allclose(multi_scale_retention(x, gained, 1, eps=0.0), [[3.0 * swish, 0.0]])


def test_multi_scale_retention_forms_agree() -> None:
    rng = np.random.default_rng(0)
    rows = {"query": 8, "key": 8, "value": 6, "gate": 6}
    weights: Weights = {f"{name}.weight": rng.normal(size=(count, 5)) for name, count in rows.items()} | {
        "output.weight": rng.normal(size=(5, 6))
    }
    x = normal(1, 6, 5)
    loop = multi_scale_retention(x, weights, 2, eps=0.0)
    assert loop.shape == (6, 5)
    assert_allclose(multi_scale_retention(x, weights, 2, eps=0.0, normalise=True), loop)
    assert_allclose(multi_scale_retention(x, weights, 2, eps=0.0, scale=3.0), loop)


def test_delta_rule_overwrites_and_gates_decay() -> None:
    k = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    v = np.array([[[2.0], [3.0], [7.0]]])
    out, state = delta_rule(k, k, v, np.ones((1, 3)))
    assert_allclose(out, v)
    assert_allclose(state, [[[7.0, 3.0]]])
    half, state = delta_rule(k, k, v, np.full((1, 3), 0.5))
    assert_allclose(half[0, :, 0], [1.0, 1.5, 0.5 * 1.0 + 3.5])
    assert_allclose(state, [[[4.0, 1.5]]])
    gated, state = gated_delta_rule(k, k, v, np.full((1, 3), 0.5), np.full((1, 3), 0.5))
    assert_allclose(gated[0, :, 0], [1.0, 1.5, 0.25 * 0.5 * 1.0 + 3.5])
    assert_allclose(state, [[[3.625, 0.75]]])


def test_delta_rules_in_pieces_and_limits() -> None:
    q, v = normal(1, 2, 6, 3), normal(3, 2, 6, 4)
    k = l2_normalise(normal(2, 2, 6, 3))
    assert_allclose((k**2).sum(-1), 1.0)
    beta = 1.0 / (1.0 + np.exp(-normal(4, 2, 6)))
    alpha = 1.0 / (1.0 + np.exp(-normal(5, 2, 6)))
    whole, end = gated_delta_rule(q, k, v, alpha, beta)
    first, middle = gated_delta_rule(q[:, :2], k[:, :2], v[:, :2], alpha[:, :2], beta[:, :2])
    rest, last = gated_delta_rule(q[:, 2:], k[:, 2:], v[:, 2:], alpha[:, 2:], beta[:, 2:], middle)
    assert_allclose(np.concatenate([first, rest], axis=1), whole)
    assert_allclose(last, end)
    assert_allclose(delta_rule(q, k, v, beta)[0], gated_delta_rule(q, k, v, np.ones((2, 6)), beta)[0])
    forgetful, _ = gated_delta_rule(q, k, v, np.zeros((2, 6)), beta, scale=2.0)
    assert_allclose(forgetful, 2.0 * beta[..., None] * v * (q * k).sum(-1, keepdims=True))


# Halting


def test_halting_by_hand() -> None:
    states = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    halted = halt(states, np.array([0.25, 0.5, 0.5, 0.9]))
    assert halted.updates == 3
    assert halted.remainder == 0.25
    assert halted.ponder == 3.25
    assert_allclose(halted.weights, [0.25, 0.5, 0.25, 0.0])
    assert_allclose(halted.output, [0.25 + 1.25, 0.5 + 1.25])


def test_halting_at_the_ends() -> None:
    states = np.array([[1.0], [2.0], [4.0]])
    at_once = halt(states, np.array([0.995, 0.0, 0.0]))
    assert (at_once.updates, at_once.remainder, at_once.ponder) == (1, 1.0, 2.0)
    assert_allclose(at_once.output, [1.0])
    never = halt(states, np.zeros(3))
    assert (never.updates, never.remainder, never.ponder) == (3, 1.0, 4.0)
    assert_allclose(never.output, [4.0])
    exact = halt(states, np.array([0.5, 0.25, 0.0]), epsilon=0.25)
    assert (exact.updates, exact.remainder) == (2, 0.5)
    assert_allclose(exact.weights, [0.5, 0.5, 0.0])
