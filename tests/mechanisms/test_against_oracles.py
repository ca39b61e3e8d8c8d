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
from attentune.mechanisms import attention, layer
from attentune.mechanisms.adaptive_span import AdaptiveSpan
from attentune.mechanisms.transformer_xl import TransformerXL
from attentune.spec.model import FeedForwardSpec, ModelSpec
from attentune.spec.positions import Positions
from kernels.attending import attend, operands, parameters, sizes
from mechanisms.agreeing import Arrays, Given, Ours, Theirs, assert_agree, called, split
from oracles import (
    adaptive_span,
    gated_attention,
    moba,
    realformer,
    shaw,
    talking_heads,
    transformer_xl,
)
from oracles.arrays import Array, sigmoid

MASKS: dict[str, Callable[[tuple[int, int]], Any]] = {
    "full": np.ones,
    "causal": lambda shape: np.tril(np.ones(shape)),
    "~causal": lambda shape: 1 - np.tri(*shape),
}


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
        output: Tensor = attend(spec, given["q"], given["k"], given["v"], params=params, layout=layout).output
        return output

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


@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_residual_scores_through_three_layers(placement: Literal["pre", "post"], mask: str) -> None:
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
        depth=3,
        feed_forward=FeedForwardSpec(name="gelu", hidden=12),
        norm_placement=placement,
        bias=True,
    )

    def theirs(given: Arrays) -> Array:
        weights: Arrays = {}
        for i in range(3):
            name = f"layers.{i}."
            projections = split(given, f"{name}attention.heads.0.", 8, 8)
            weights |= {f"{name}attention.{part}": array for part, array in projections.items()}
            weights |= {f"{name}{part}": given[f"{name}{own}"] for own, part in parts.items()}
        pre = placement == "pre"
        return np.stack([realformer.stack_forward(x, weights, 2, allowed(mask, 5), pre_norm=pre) for x in given["x"]])

    assert_agree(called(stack), theirs, scattered(stack, x=(2, 5, 8)), entries=1)


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
