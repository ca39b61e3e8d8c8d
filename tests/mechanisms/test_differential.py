from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import attention, layer
from attentune.mechanisms.differential import Differential
from attentune.spec.mechanism import Dims
from attentune.spec.model import ModelSpec
from models.language import decoder, in_chunks, tokens

DIMS = Dims(width=2, heads=2, groups=2, head_width=1, value_width=1, source_width=2)
NAMES = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


def set_lambdas(layer: Attention, *numbers: float) -> None:
    with torch.no_grad():
        for name, number in zip(NAMES, numbers, strict=True):
            getattr(layer.held["combine"][0], name).fill_(number)


def test_one_pair_by_hand() -> None:
    dims = DIMS
    value = Differential(init=0.5)
    v = torch.tensor([[[[1.0]], [[2.0]]]])
    assert value.values(dims, v).flatten().tolist() == [1.0, 2.0, 1.0, 2.0]
    params = {name: torch.tensor([number]) for name, number in zip(NAMES, (0.0, 9.0, 0.0, 9.0), strict=True)}
    o = torch.tensor([[[[10.0, 2.0]], [[4.0, 4.0]]]])  # of head 0 and head 1, each with two columns
    # lambda = 1 - 1 + 0.5: the difference is (8, 0), its root mean square sqrt(32), times 1 - 0.5
    found = value.combine(params, dims, o, torch.zeros(1, 1, 2), o)
    assert found.shape == (1, 2, 1, 1)
    assert found.flatten().tolist() == pytest.approx([0.5 * 8 / 32**0.5, 0.0], abs=1e-6)


def test_lambda_by_hand() -> None:
    params = {
        name: torch.tensor(numbers)
        for name, numbers in zip(NAMES, ([1.0, 2.0], [0.5, 0.25], [1.0, 1.0], [-1.0, 0.0]), strict=True)
    }
    learned = exp(1.0) - exp(-1.0)
    assert Differential(init=0.3).factor(params, DIMS).item() == pytest.approx(learned + 0.3)
    assert Differential().factor(params, DIMS).item() == pytest.approx(learned + 0.2)
    fourth = replace(DIMS, layer=3)
    assert Differential().factor(params, fourth).item() == pytest.approx(learned + 0.8 - 0.6 * 0.40656965974)


@pytest.mark.parametrize("heads", ["4", "4/2", "8/4"])
def test_equals_the_formula_written_out(heads: str) -> None:
    width, length = 16, 5
    layer = Attention(attention(f"heads={heads}, mask=causal, combine=differential(0.3, gain=true)"), width=width)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, length, width, dtype=torch.float64)
    dims, w = layer.dims, layer.held["heads"][0]
    many, groups, columns = dims.heads, dims.groups, dims.head_width
    q, k, v = (x @ w.qkv.T).split([many * columns, groups * columns, groups * columns], -1)
    q, k, v = (t.unflatten(-1, (-1, columns)) for t in (q, k, v))  # [B T N D]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)

    def weights(head: int) -> torch.Tensor:
        s = q[:, :, head] @ k[:, :, head // (many // groups)].mT / columns**0.5
        return s.masked_fill(hidden, float("-inf")).softmax(-1)

    own = layer.held["combine"][0]
    factor = (own.lambda_q1 @ own.lambda_k1).exp() - (own.lambda_q2 @ own.lambda_k2).exp() + 0.3
    outputs = []
    for pair in range(many // 2):
        group = pair // (many // groups)
        values = torch.cat([v[:, :, group], v[:, :, group + groups // 2]], -1)
        o = (weights(pair) - factor * weights(pair + many // 2)) @ values
        rms = (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        outputs.append((1 - 0.3) * own.gain * o / rms)
    expected = torch.cat(outputs, -1) @ w.out.T
    assert torch.allclose(layer(x, Layout.plain(length)).y, expected, atol=1e-12)


def test_lambda_of_zero_is_the_normalised_first_map() -> None:
    layer = Attention(attention("heads=4, mask=causal, combine=differential(0.0)"), width=16).double()
    set_lambdas(layer, 0.0, 0.0, 0.0, 0.0)  # exp(0) - exp(0) + 0
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    held = layer.held["heads"][0]
    q, k, v = (x @ held.qkv.T).unflatten(-1, (3, 4, 4)).unbind(-3)  # [B T H D]
    s = torch.einsum("bqhd,bkhd->bhqk", q[:, :, :2], k[:, :, :2]) / 2
    p = s.masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
    pairs = torch.cat([v[:, :, :2], v[:, :, 2:]], -1)
    o = torch.einsum("bhqk,bkhw->bqhw", p, pairs)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(layer(x, Layout.plain(6)).y, o.flatten(2) @ held.out.T, atol=1e-12)


@pytest.mark.parametrize("depth", [0, 3])
def test_equals_the_differential_llama_of_transformers(depth: int) -> None:
    llama = pytest.importorskip("transformers.models.diffllama.modeling_diffllama")
    config = llama.DiffLlamaConfig(
        hidden_size=32, num_attention_heads=8, num_key_value_heads=4, rms_norm_eps=1e-5, max_position_embeddings=32
    )
    config._attn_implementation = "eager"
    theirs = llama.DiffLlamaAttention(config, layer_idx=depth)
    ours = Attention(attention("heads=8/4, position=rotary, mask=causal, combine=differential"), width=32, layer=depth)
    with torch.no_grad():
        for name in NAMES:
            getattr(theirs, name).normal_(0.0, 0.5)
            getattr(ours.held["combine"][0], name).copy_(getattr(theirs, name))
        heads = ours.held["heads"][0]
        heads.qkv.copy_(torch.cat([theirs.q_proj.weight, theirs.k_proj.weight, theirs.v_proj.weight]))
        heads.out.copy_(theirs.o_proj.weight)
    x = torch.randn(2, 7, 32)
    turn = llama.DiffLlamaRotaryEmbedding(config)(x, torch.arange(7)[None])
    hidden = torch.full((7, 7), float("-inf")).triu(1)[None, None]
    results = []
    for made in (lambda x: theirs(x, turn, hidden)[0], lambda x: ours(x, Layout.plain(7)).y):
        leaf = x.clone().requires_grad_()
        y = made(leaf)
        results.append((y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), leaf)))
    for expected, found in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_query_that_sees_nothing_gives_zero_and_finite_gradients() -> None:
    layer = Attention(attention("heads=2, mask=~causal, combine=differential"), width=8).double()
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    y = layer(x, Layout.plain(4)).y
    y.square().sum().backward()
    assert (y[:, -1] == 0).all()
    assert (y[:, :-1] != 0).any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_it_decodes_on_a_cache_of_the_usual_size() -> None:
    model = decoder("heads=4/2, position=rotary, mask=causal, combine=differential + gate")
    ids = tokens(2, 9)
    assert torch.allclose(in_chunks(model, ids, (4, 1, 4)), model(ids).logits, atol=1e-10)
    state = model.start(1)
    model(tokens(1, 3), state=state)
    assert state.layers[0].cache is not None
    assert state.layers[0].cache.buffers["v"].shape[1::2] == (2, 4)


def test_each_layer_of_a_model_begins_with_its_own_lambda() -> None:
    model = decoder("heads=2, mask=causal, combine=differential", depth=4)
    value = Differential()
    found = [value.first_factor(block.attention.dims) for block in model.layers]
    assert found == pytest.approx([0.2, 0.3555090, 0.4707130, 0.5560582], abs=1e-6)


@pytest.mark.parametrize(("heads", "reason"), [
    ("1", "an even number of query heads, got 1"),
    ("6/3", "an even number of key/value heads, got 3"),
    ("multi_query(4)", "an even number of key/value heads, got 1"),
])  # fmt: skip
def test_heads_that_make_no_pairs_are_refused(heads: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        Attention(attention(f"heads={heads}, combine=differential"), width=12)


def test_what_it_does_not_go_with_is_refused() -> None:
    with pytest.raises(SpecError, match="differential widens the values: it must stand before gate"):
        attention("heads=4, combine=gate + differential")
    with pytest.raises(SpecError, match="combine holds gate more than once"):
        attention("heads=4, combine=gate + gate")
    with pytest.raises(SpecError, match=r"differential.init: .*less than 1, got 1"):
        attention("heads=4, combine=differential(1.0)")
    with pytest.raises(SpecError, match="differential widens the values; position=shaw adds vectors"):
        attention("heads=4, position=shaw(3), combine=differential")


def test_relative_positions_of_keys_alone_go_with_it() -> None:
    model = decoder("heads=4/2, mask=causal, position=shaw(3, on_values=false), combine=differential")
    ids = tokens(2, 9)
    assert torch.allclose(in_chunks(model, ids, (4, 1, 4)), model(ids).logits, atol=1e-10)


@pytest.mark.parametrize(
    "text", ["heads=3, combine=differential", "heads=4, cross=attention(heads=1, combine=differential)"]
)
def test_a_model_refuses_unpaired_heads_before_it_is_built(text: str) -> None:
    with pytest.raises(SpecError, match="differential pairs heads: it needs an even number of query heads"):
        ModelSpec(vocab_size=5, width=12, depth=1, layers=(layer(text),))
