"""Mechanisms against code written from their papers alone: outputs to 1e-10, gradients by that code's differences.

What is called `theirs` reads no line of ours; it sees one sequence at a time, as numpy arrays. Of what we call by
another name, or lay out in another order, each test says how it is carried over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from attentune.kernels import Layout
from attentune.kernels.layout import LayoutKind
from attentune.layers.attention import Attention, Carry
from attentune.layers.block import Block
from attentune.layers.halting import Halting, Walk
from attentune.mechanisms import attention, layer
from attentune.mechanisms.adaptive_span import AdaptiveSpan
from attentune.mechanisms.gated_delta import GatedDelta
from attentune.mechanisms.linear_attention import LinearAttention, random_directions
from attentune.mechanisms.retention import Retention
from attentune.mechanisms.transformer_xl import TransformerXL
from attentune.spec.halting import HaltingSpec
from attentune.spec.model import FeedForwardSpec, ModelSpec
from attentune.spec.positions import Positions
from attentune.spec.slots import Mixer
from kernels.attending import attend, operands, parameters, sizes
from mechanisms.mixing import begin, dims, random_parameters
from oracles import (
    adaptive_span,
    gated_attention,
    halting,
    linear_mixers,
    moba,
    realformer,
    shaw,
    talking_heads,
    transformer_xl,
)
from oracles.arrays import Array, linear, merge_heads, rms_norm, sigmoid, split_heads

Given = dict[str, Tensor]
Arrays = dict[str, Array]
Ours = Callable[[Given], Tensor]
Theirs = Callable[[Arrays], Array]
STEP = 1e-6
MASKS = {"full": np.ones, "causal": lambda shape: np.tril(np.ones(shape)), "~causal": lambda shape: 1 - np.tri(*shape)}


def assert_agree(ours: Ours, theirs: Theirs, given: Given, *, tolerance: float = 1e-10) -> None:
    """Equal outputs, and our gradients equal to their central differences at three entries of each tensor."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in given.items()}
    arrays = {name: tensor.detach().numpy().copy() for name, tensor in given.items()}
    found, expected = ours(leaves), theirs(arrays)
    assert found.dtype is torch.float64 and found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found.detach().numpy() - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
    direction = torch.randn(found.shape, dtype=torch.float64)
    slopes = torch.autograd.grad((found * direction).sum(), list(leaves.values()))
    for (name, array), slope in zip(arrays.items(), slopes, strict=True):
        assert slope.abs().max() > 1e-6, name
        for place in torch.randperm(array.size)[:3].tolist():
            moved = []
            for step in (STEP, -STEP):
                shifted = array.copy()
                shifted.flat[place] += step
                moved.append(float((theirs(arrays | {name: shifted}) * direction.numpy()).sum()))
            expected_slope = (moved[0] - moved[1]) / (2 * STEP)
            assert slope.flatten()[place].item() == pytest.approx(expected_slope, rel=1e-6, abs=1e-7), name


def drawn(text: str, queries: int, keys: int | None = None) -> Given:
    """Operands and parameters of a spec, but for its projections: two rows of each, heads four columns wide."""
    spec = attention(text)
    own = parameters(spec, sizes(spec))
    named = {
        f"{slot}.{place}.{name}": tensor
        for slot, values in own.items()
        if slot != "heads"
        for place, value in enumerate(values)
        for name, tensor in value.items()
    }
    return dict(zip("qkv", operands(sizes(spec), queries, keys), strict=True)) | named


def kernel(text: str, layout: Layout | None = None) -> Ours:
    """The reference kernel on operands and parameters as `drawn` names them."""
    spec = attention(text)

    def run(given: Given) -> Tensor:
        params: dict[str, list[Given]] = {}
        for slot, place, _ in spec.values():
            start = f"{slot}.{place}."
            own = {name.removeprefix(start): tensor for name, tensor in given.items() if name.startswith(start)}
            params.setdefault(slot, []).append(own)
        return attend(spec, given["q"], given["k"], given["v"], params=params, layout=layout).output

    return run


def each_row(theirs: Callable[[Array, Array, Array, Arrays], Array], *, group: int = 1) -> Theirs:
    """Sequence by sequence, key and value heads repeated for the query heads that share them."""

    def run(given: Arrays) -> Array:
        rows = zip(given["q"], given["k"], given["v"], strict=True)
        return np.stack([theirs(q, np.repeat(k, group, 0), np.repeat(v, group, 0), given) for q, k, v in rows])

    return run


def allowed(mask: str, queries: int, keys: int | None = None) -> Any:
    """The mask as [Q K]; with more keys than queries these are the last ones."""
    keys = queries if keys is None else keys
    return MASKS[mask]((keys, keys))[keys - queries :] > 0


def cached(queries: int, keys: int) -> Layout:
    """Queries that stand at the last of the keys."""
    return Layout(LayoutKind.CACHED, Positions.arange(queries, start=keys - queries), Positions.arange(keys))


# Scores, positions, heads, blocks


@pytest.mark.parametrize("heads", ["3", "4/2"])
@pytest.mark.parametrize("mask", MASKS)
def test_talking_heads(mask: str, heads: str) -> None:
    """`pre` and `post` are P_l and P_w, square; a query that sees nothing gives zeros in both."""
    text = f"heads={heads}, head_mix=talking_heads, mask={mask}"

    def theirs(q: Array, k: Array, v: Array, given: Arrays) -> Array:
        projections = given["head_mix.0.pre"], given["head_mix.0.post"]
        return talking_heads.talking_heads_attention(q, k, v, *projections, allowed(mask, 6))

    assert_agree(kernel(text), each_row(theirs, group=2 if "/" in heads else 1), drawn(text, 6))


@pytest.mark.parametrize("on_values", [True, False])
@pytest.mark.parametrize(("mask", "keys"), [("full", 7), ("causal", 7), ("~causal", 7), ("causal", 10)])
def test_shaw(mask: str, keys: int, on_values: bool) -> None:
    """`keys` and `values` are the tables w^K and w^V, in their order: the farthest past first."""
    text = f"heads=4/2, position=shaw(2, on_values={str(on_values).lower()}), mask={mask}"

    def theirs(q: Array, k: Array, v: Array, given: Arrays) -> Array:
        tables = given["position.0.keys"], given.get("position.0.values")
        return shaw.shaw_attention(q, k, v, *tables, allowed(mask, 7, keys))

    layout = None if keys == 7 else cached(7, keys)
    assert_agree(kernel(text, layout), each_row(theirs, group=2), drawn(text, 7, keys))


def spans(given: Arrays, span: float) -> Array:
    """Our z = span sigmoid(a)."""
    return span * sigmoid(given["scores.0.a"])


@pytest.mark.parametrize("ramp", [1, 4])
def test_adaptive_span(ramp: int) -> None:
    """Our z is sigmoid(a) of the largest, where the paper clamps; the query's own key is seen, at the distance 0.

    The paper also cuts keys off beyond the largest span S; ours fade over `ramp` tokens more.
    """
    text = f"heads=2, scores=adaptive_span(6, ramp={ramp}), mask=causal"

    def theirs(q: Array, k: Array, v: Array, given: Arrays) -> Array:
        return adaptive_span.adaptive_span_attention(q, k, v, spans(given, 6.0), ramp)

    given = drawn(text, 12)
    with torch.no_grad():
        given["scores.0.a"][1] = 3.0  # a long span beside a middling one
    assert_agree(kernel(text), each_row(theirs), given)


def test_adaptive_span_cut_off_at_the_largest_span() -> None:
    """The cut at S = 6 is a window of 7 keys, own included; without it a long span reaches further."""
    text = "heads=2, scores=adaptive_span(6, ramp=4), mask=window(7)"

    def theirs(q: Array, k: Array, v: Array, given: Arrays) -> Array:
        return adaptive_span.adaptive_span_attention(q, k, v, spans(given, 6.0), 4, max_span=6)

    given = drawn(text, 12)
    with torch.no_grad():
        given["scores.0.a"].fill_(3.0)
    assert_agree(kernel(text), each_row(theirs), given)
    assert not torch.allclose(kernel(text)(given), kernel(text.replace("window(7)", "causal"))(given), atol=1e-3)


def test_adaptive_span_over_relative_positions() -> None:
    """The paper's keys k + p_x, p learned for each distance x, are Shaw's without vectors on the values."""
    text = "heads=2, position=shaw(9, on_values=false), scores=adaptive_span(5, ramp=3), mask=causal"

    def theirs(q: Array, k: Array, v: Array, given: Arrays) -> Array:
        by_distance = given["position.0.keys"][9::-1]
        return adaptive_span.adaptive_span_attention(q, k, v, spans(given, 5.0), 3, positions=by_distance)

    assert_agree(kernel(text), each_row(theirs), drawn(text, 10))


def test_the_penalty_of_spans() -> None:
    value, sizes_ = AdaptiveSpan(span=20, penalty=0.3), sizes(attention("heads=4"))
    assert_agree(
        lambda given: value.losses({"a": given["scores.0.a"]}, sizes_)["span"],
        lambda given: np.array(adaptive_span.span_penalty(spans(given, 20.0), 0.3)),
        {"scores.0.a": torch.randn(4, dtype=torch.float64)},
    )


@pytest.mark.parametrize(("heads", "top"), [("2", 1), ("2", 2), ("4/2", 3), ("2", 9)])
def test_top_k_blocks(heads: str, top: int) -> None:
    """`top` counts the query's own block, as their top_k does; no gradient comes from the choice itself."""
    text = f"heads={heads}, mask=causal, selector=top_k_blocks(3, {top})"

    def theirs(q: Array, k: Array, v: Array, given: Arrays) -> Array:
        return moba.moba_attention(q, k, v, 3, top)

    assert_agree(kernel(text), each_row(theirs, group=2 if "/" in heads else 1), drawn(text, 14))


def test_top_k_blocks_of_equal_scores() -> None:
    """The paper leaves ties open: theirs go to the earlier block, ours to the nearer. The last tokens tell it.

    With the values of two equal blocks changed for each other, what one chooses is what the other chose.
    """
    q, k, v = (tensor.detach() for tensor in operands(sizes(attention("heads=1")), 8, batch=1))
    k[:, :, 2:4] = k[:, :, :2]
    q[:, :, 6:] = k[:, :, :2].mean(2, keepdim=True)  # the best of their past is block 0, or its equal, block 1
    k[:, :, 4:6] = -k[:, :, :2]
    changed = v[:, :, [2, 3, 0, 1, 4, 5, 6, 7]]
    ours = attend("heads=1, mask=causal, selector=top_k_blocks(2, 2)", q, k, v).output[0, :, 6:]
    theirs = (moba.moba_attention(q[0].numpy(), k[0].numpy(), w[0].numpy(), 2, 2)[:, 6:] for w in (v, changed))
    kept, swapped = map(torch.from_numpy, theirs)
    assert torch.allclose(ours, swapped, atol=1e-12)
    assert not torch.allclose(ours, kept, atol=1e-3)


# Layers: residual scores, gates, Transformer-XL


class Stack(nn.Module):
    """Layers one after the other, with what each hands to the next."""

    def __init__(self, text: str, *, depth: int, **fields: Any) -> None:
        super().__init__()
        model = ModelSpec(vocab_size=2, width=8, depth=depth, context=16, layers=(layer(text),), **fields)
        self.layers = nn.ModuleList(Block(layer(text), model, index=i, shared={}) for i in range(depth))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        carry: Carry | None = None
        layout = Layout.plain(x.shape[1])
        for block in self.layers:
            x, given = block(x, layout, carry=carry)
            carry = given.carry
        return x


def scattered(module: nn.Module, **inputs: tuple[int, ...]) -> Given:
    """Inputs, and parameters far from where they begin."""
    made = {name: torch.randn(shape, dtype=torch.float64) for name, shape in inputs.items()}
    for name, parameter in module.named_parameters():
        made[name] = parameter.detach().double() + 0.4 * torch.randn(parameter.shape, dtype=torch.float64)
    return made


def called(module: nn.Module) -> Ours:
    """The module with the parameters and the `x` that are given."""

    def run(given: Given) -> Tensor:
        own = {name: tensor for name, tensor in given.items() if name != "x"}
        found: Tensor = functional_call(module, own, (given["x"],))
        return found

    return run


def split(given: Arrays, name: str, query: int, key: int) -> Arrays:
    """Our one matrix for q, k and v, and the one back, by their names; biases too where there are any."""
    found = {}
    for end, suffix in (("weight", ""), ("bias", "_bias")):
        if f"{name}qkv{suffix}" in given:
            q, k, v = np.split(given[f"{name}qkv{suffix}"], [query, query + key])
            found |= {
                f"query.{end}": q,
                f"key.{end}": k,
                f"value.{end}": v,
                f"output.{end}": given[f"{name}out{suffix}"],
            }
    return found


@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_residual_scores_through_four_layers(placement: Literal["pre", "post"], mask: str) -> None:
    """Whole layers, post-norm as in the paper, with its GELU; what ours hands on are queries and keys, not scores."""
    parts = {
        "attention_norm.gain": "attention_norm.weight",
        "attention_norm.bias": "attention_norm.bias",
        "feed_forward_norm.gain": "ffn_norm.weight",
        "feed_forward_norm.bias": "ffn_norm.bias",
        "feed_forward.up": "ffn.inner.weight",
        "feed_forward.up_bias": "ffn.inner.bias",
        "feed_forward.down": "ffn.outer.weight",
        "feed_forward.down_bias": "ffn.outer.bias",
    }
    stack = Stack(
        f"heads=2, mask={mask}, scores=residual_scores",
        depth=4,
        feed_forward=FeedForwardSpec(name="gelu", hidden=12),
        norm_placement=placement,
        bias=True,
    )

    def theirs(given: Arrays) -> Array:
        weights = {}
        for i in range(4):
            name = f"layers.{i}."
            projections = split(given, f"{name}attention.heads.0.", 8, 8)
            weights |= {f"{name}attention.{part}": array for part, array in projections.items()}
            weights |= {f"{name}{part}": given[f"{name}{own}"] for own, part in parts.items()}
        pre = placement == "pre"
        return np.stack([realformer.stack_forward(x, weights, 2, allowed(mask, 5), pre_norm=pre) for x in given["x"]])

    assert_agree(called(stack), theirs, scattered(stack, x=(2, 5, 8)))


@pytest.mark.parametrize("mask", MASKS)
def test_residual_scores_of_three_layers_of_shared_heads(mask: str) -> None:
    """Attention alone, keys shared by two heads each; queries that see nothing hand on what they would have scored."""
    text = f"heads=4/2, mask={mask}, scores=residual_scores"
    given = {f"{i}.{name}": tensor for i in range(3) for name, tensor in drawn(text, 5).items()}

    def ours(given: Given) -> Tensor:
        spec, carry, outputs = attention(text), None, []
        for i in range(3):
            q, k = carry = spec.scores[0].columns({}, given[f"{i}.q"], given[f"{i}.k"], carry)  # type: ignore[attr-defined]
            outputs.append(attend(spec, q, k, given[f"{i}.v"]).output)
        return torch.stack(outputs)

    def theirs(given: Arrays) -> Array:
        outputs = np.zeros((3, 2, 4, 5, 4))
        for row in range(2):
            scores = None
            for i in range(3):
                q, k, v = given[f"{i}.q"][row], given[f"{i}.k"][row].repeat(2, 0), given[f"{i}.v"][row].repeat(2, 0)
                outputs[i, row], scores = realformer.residual_attention(q, k, v, scores, allowed(mask, 5))
        return outputs

    assert_agree(ours, theirs, given)


@pytest.mark.parametrize(("per", "gate"), [("head", "headwise"), ("element", "elementwise")])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_gates_in_pre_norm_layers(norm: Literal["rms", "layer"], per: str, gate: gated_attention.Gate) -> None:
    """Two sub-layers; the gate reads the normed states, as the queries do."""
    stack = Stack(
        f"heads=4/2, mask=causal, combine=gate(per={per})",
        depth=2,
        feed_forward=FeedForwardSpec(name="none"),
        norm=norm,
        norm_epsilon=1e-5,
    )

    def theirs(given: Arrays) -> Array:
        rows = []
        for h in given["x"]:
            for i in range(2):
                weights = split(given, f"layers.{i}.attention.heads.0.", 8, 4)
                weights["gate.weight"] = given[f"layers.{i}.attention.combine.0.weight"]
                weights["norm.weight"] = given[f"layers.{i}.attention_norm.gain"]
                h = gated_attention.pre_norm_sublayer(h, weights, 4, 2, gate, norm)
            rows.append(h)
        return np.stack(rows)

    assert_agree(called(stack), theirs, scattered(stack, x=(2, 6, 8)))


XL = "heads=2, position=transformer_xl_relative, mask=causal, memory=transformer_xl(5)"


def xl_weights(given: Arrays) -> Arrays:
    """Our W meets first all sines, then all cosines; the paper's sinusoid takes turns."""
    w, half = given["position.0.w"], given["position.0.w"].shape[1] // 2
    turns = np.stack([w[:, :half], w[:, half:]], -1).reshape(w.shape)
    projections = {f"at.{part}": array for part, array in split(given, "heads.0.", 8, 8).items()}
    own = {"at.position.weight": turns, "at.bias_u": given["position.0.u"], "at.bias_v": given["position.0.v"]}
    return projections | own


@pytest.mark.parametrize("remembered", [0, 4])
def test_transformer_xl_attention_over_a_memory(remembered: int) -> None:
    module = Attention(attention(XL), width=8, bias=True).double()

    def ours(given: Given) -> Tensor:
        own = {name: tensor for name, tensor in given.items() if name not in ("x", "memory")}
        layout = cached(6, 6 + remembered) if remembered else Layout.plain(6)
        source = torch.cat([given["memory"], given["x"]], 1) if remembered else None
        y: Tensor = functional_call(module, own, (given["x"], layout), {"source": source}).y
        return y

    def theirs(given: Arrays) -> Array:
        memories = given["memory"] if remembered else np.zeros((2, 0, 8))
        rows = zip(given["x"], memories, strict=True)
        return np.stack([transformer_xl.relative_attention(x, m, xl_weights(given), "at", 2) for x, m in rows])

    memory = {"memory": (2, remembered, 8)} if remembered else {}
    assert_agree(ours, theirs, scattered(module, x=(2, 6, 8), **memory))


def test_transformer_xl_segments_through_two_layers() -> None:
    """h + attention(h), segments shorter and longer than the memory of 5; no gradient flows into the memory."""
    modules = [Attention(attention(XL), width=8).double() for _ in range(2)]
    given = [scattered(module) for module in modules]
    weights = [xl_weights({name: tensor.numpy() for name, tensor in own.items()}) for own in given]
    memories, kept = [torch.zeros(1, 0, 8, dtype=torch.float64)] * 2, [np.zeros((0, 8))] * 2
    seen = 0
    for length in (3, 4, 1, 8, 2):
        segment = torch.randn(1, length, 8, dtype=torch.float64, requires_grad=True)
        past, h, theirs = memories[0].shape[1], segment, segment[0].detach().numpy()
        places = Positions.arange(length, start=seen), Positions.arange(past + length, start=seen - past)
        for i, module in enumerate(modules):
            source = torch.cat([memories[i], h], 1)
            layout = Layout(LayoutKind.CACHED, *places)
            memories[i] = TransformerXL(length=5).keep(source)
            h = h + functional_call(module, given[i], (h, layout), {"source": source}).y
            after = theirs + transformer_xl.relative_attention(theirs, kept[i], weights[i], "at", 2)
            kept[i] = np.concatenate([kept[i], theirs])[-5:]
            theirs = after
        assert torch.allclose(h[0], torch.from_numpy(theirs), rtol=0, atol=1e-10)
        assert h.requires_grad and not any(memory.requires_grad for memory in memories)
        seen += length
    assert memories[0].shape[1] == 5


# Mixers


@pytest.fixture
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four tokens, so that eleven are three of them."""
    monkeypatch.setattr("attentune.mechanisms._matrix_state.CHUNK", 4)


def mixed(mixer: Mixer, form: str, cut: int) -> Ours:
    """The mixer in one form, in one piece or in two, the second on the state of the first."""

    def run(given: Given) -> Tensor:
        x, state, outputs = given["x"], begin(mixer, 8, given["x"].shape[0]), []
        for piece in (x[:, :cut], x[:, cut:]) if cut else (x,):
            y, state = mixer.mix(given, piece, state, None, None, form)
            outputs.append(y)
        return torch.cat(outputs, 1)

    return run


def assert_mixer_agrees(mixer: Mixer, theirs: Callable[[Array, Arrays], Array], form: str, cut: int) -> None:
    given = {"x": torch.randn(2, 11, 8, dtype=torch.float64)} | dict(random_parameters(mixer, 8))
    assert_agree(mixed(mixer, form, cut), lambda arrays: np.stack([theirs(x, arrays) for x in arrays["x"]]), given)


def projected(x: Array, given: Arrays, value_factor: int = 1) -> Arrays:
    """Their names for the projections, with the widths of two heads."""
    return split(given, "", 8, 8) | {"gate.weight": given["gate"]} if "gate" in given else split(given, "", 8, 8)


in_every_form = pytest.mark.parametrize(
    ("form", "cut"),
    [("parallel", 0), ("parallel", 5), ("chunked", 0), ("chunked", 6), ("recurrent", 0), ("recurrent", 3)],
)


@in_every_form
@pytest.mark.usefixtures("_short_chunks")
@pytest.mark.parametrize("features", ["elu", "random"])
def test_linear_attention(features: Literal["elu", "random"], form: str, cut: int) -> None:
    """Random features are compared for the directions that we draw; theirs are e^(w.x), not the hyperbolic pair."""
    mixer = LinearAttention(heads=2, features=features, directions=6, seed=3)
    directions = random_directions(6, 4, 3, torch.zeros((), dtype=torch.float64)).numpy()

    def theirs(x: Array, given: Arrays) -> Array:
        weights = projected(x, given)
        q, k, v = (split_heads(linear(x, weights, name), 2) for name in ("query", "key", "value"))
        if features == "elu":
            o = linear_mixers.linear_attention(q, k, v)
        else:
            o = linear_mixers.favor_attention(q, k, v, directions)
        return linear(merge_heads(o), weights, "output")

    assert_mixer_agrees(mixer, theirs, form, cut)


def retention_weights(given: Arrays) -> Arrays:
    """Ours turns the halves of a head's columns, the paper's their neighbours: rows of W_q and W_k change places."""
    neighbours = np.array([head + column for head in (0, 4) for column in (0, 2, 1, 3)])
    weights = split(given, "", 8, 8) | {"gate.weight": given["gate"]}
    for name in ("query.weight", "key.weight", "query.bias", "key.bias"):
        weights[name] = weights[name][neighbours]
    return weights | {"group_norm.weight": given["norm"], "group_norm.bias": given["norm_bias"]}


@in_every_form
@pytest.mark.usefixtures("_short_chunks")
@pytest.mark.parametrize("expand", [1, 2])
def test_retention(expand: int, form: str, cut: int) -> None:
    """Theirs scales keys where ours scales queries, and holds no gain in the group norm but the one we give."""

    def theirs(x: Array, given: Arrays) -> Array:
        return linear_mixers.multi_scale_retention(x, retention_weights(given), 2)

    assert_mixer_agrees(Retention(heads=2, expand=expand), theirs, form, cut)


def test_retention_with_the_scales_of_the_paper() -> None:
    """Ours leaves out section 2.2's scales of rows: the norm takes them off, so that only its epsilon knows of them."""
    mixer = Retention(heads=2, expand=2)
    given = dict(random_parameters(mixer, 8)) | {"x": torch.randn(1, 11, 8, dtype=torch.float64)}
    given = {name: tensor.detach() for name, tensor in given.items()}
    given["qkv"][16:] *= 1e5  # beside large values the epsilon vanishes
    given["qkv_bias"][16:] *= 1e5
    found = mixed(mixer, "parallel", 0)(given)[0].numpy()
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    scaled = linear_mixers.multi_scale_retention(arrays["x"][0], retention_weights(arrays), 2, normalise=True)
    assert np.abs(found - scaled).max() < 1e-9
    assert np.abs(scaled).max() > 0.1


def delta_parts(x: Array, given: Arrays, conv: int) -> tuple[Array, Array, Array, Array, Array]:
    """q, k, v, alpha and beta from the formulas of our docstring: they are our layer's choice, not the recurrence's."""
    qkv = x @ given["qkv"].T + given["qkv_bias"]
    if conv:
        row = np.concatenate([np.zeros((conv - 1, qkv.shape[1])), qkv])
        qkv = sum(row[tap : tap + len(x)] * given["conv"][:, tap] for tap in range(conv))
    q, k, v = (split_heads(part, 2) for part in np.split(qkv * sigmoid(qkv), [8, 16], axis=1))
    alpha = np.ones((2, len(x)))
    if "decay" in given:
        softplus = np.log1p(np.exp(x @ given["decay"].T + given["step"]))
        alpha = np.exp(-np.exp(given["rate"]) * softplus).T
    return linear_mixers.l2_normalise(q), linear_mixers.l2_normalise(k), v, alpha, sigmoid(x @ given["beta"].T).T


@in_every_form
@pytest.mark.usefixtures("_short_chunks")
@pytest.mark.parametrize("conv", [0, 4])
@pytest.mark.parametrize("gated", [True, False])
def test_delta_rules(gated: bool, conv: int, form: str, cut: int) -> None:
    """The gated delta rule, and the delta rule: without the decay, and without the gate of the output."""
    mixer = GatedDelta(heads=2, gate=gated, output_gate=gated, conv=conv, expand=2)

    def theirs(x: Array, given: Arrays) -> Array:
        q, k, v, alpha, beta = delta_parts(x, given, conv)
        rule = linear_mixers.gated_delta_rule
        o, _ = rule(q, k, v, alpha, beta) if gated else linear_mixers.delta_rule(q, k, v, beta)
        y = merge_heads(rms_norm(o, {"norm.weight": given["norm"]}, "norm", 1e-5))
        if gated:
            gate = x @ given["gate"].T
            y = y * gate * sigmoid(gate)
        return linear(y, split(given, "", 8, 8), "output")

    assert_mixer_agrees(mixer, theirs, form, cut)


@pytest.mark.usefixtures("_short_chunks")
@pytest.mark.parametrize("form", ["parallel", "chunked", "recurrent"])
@pytest.mark.parametrize("gated", [True, False])
def test_the_state_of_delta_rules(gated: bool, form: str) -> None:
    """Ours maps keys to values [D V], theirs values to keys; both go on from where they are put."""
    mixer = GatedDelta(heads=2, gate=gated, conv=0)
    held = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    given = {name: tensor.detach() for name, tensor in random_parameters(mixer, 8).items()}
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    _, after = mixer.mix(given, x, mixer.init(dims(8), 1, x) | {"s": held}, None, None, form)
    parts = delta_parts(x[0].numpy(), {name: tensor.numpy() for name, tensor in given.items()}, 0)
    _, expected = linear_mixers.gated_delta_rule(*parts, held[0].mT.numpy())
    assert np.abs(after["s"][0].mT.numpy() - expected).max() < 1e-10


# Halting


class Steps(nn.Module):
    """Halting among states [L B T E] that stand fast, so that nothing but the halting is looked at."""

    def __init__(self, spec: HaltingSpec) -> None:
        super().__init__()
        self.halting = Halting(spec, width=4).double()
        self.last: Walk | None = None

    def forward(self, states: Tensor) -> Tensor:
        walk = self.last = Walk(self.halting, states[0], Layout.plain(states.shape[2]))
        for step, whole in enumerate(states):
            if walk.empty:
                break
            left = whole.gather(1, walk.place[..., None].expand(-1, -1, whole.shape[-1]))
            walk.after(left, last=step + 1 == len(states))
        return torch.cat([walk.output.flatten(), walk.cost[None]])


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_halting(epsilon: float) -> None:
    """Outputs, how many steps each token takes, and the cost: `weight` times the mean of their N + R."""
    steps = Steps(HaltingSpec(epsilon=epsilon, weight=0.7))
    given = {"x": torch.randn(5, 2, 9, 4, dtype=torch.float64)}
    given["halting.weight"] = torch.randn(4, dtype=torch.float64)
    given["halting.bias"] = torch.full((1,), -0.7, dtype=torch.float64)

    def by_token(given: Arrays) -> list[halting.Halting]:
        states = given["x"].reshape(5, 18, 4)
        p = sigmoid(states @ given["halting.weight"] + given["halting.bias"])
        return [halting.halt(states[:, t], p[:, t], epsilon) for t in range(18)]

    def theirs(given: Arrays) -> Array:
        tokens = by_token(given)
        cost = 0.7 * np.mean([token.ponder for token in tokens])
        return np.concatenate([*(token.output for token in tokens), [cost]])

    assert_agree(called(steps), theirs, given)
    updates = [token.updates for token in by_token({name: tensor.numpy() for name, tensor in given.items()})]
    assert steps.last is not None and steps.last.depths.flatten().tolist() == updates
    assert len(set(updates)) >= 3
