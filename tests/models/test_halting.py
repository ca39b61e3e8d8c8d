"""Adaptive depth: what halting computes, what it leaves out, and that decoding agrees with whole rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attentune.errors import SpecError
from attentune.generation.generate import generate
from attentune.generation.sampling import Sampling
from attentune.kernels import Layout
from attentune.layers.halting import Halting, Walk
from attentune.mechanisms import layer, registry
from attentune.models.build import build
from attentune.models.checkpoint import load_model, save_model
from attentune.models.decoder import Decoder
from attentune.spec.codec import from_data, from_toml, json_schema, to_data, to_toml
from attentune.spec.halting import HaltingSpec
from attentune.spec.model import ModelSpec
from models.language import context_for, decoder, in_chunks, tokens
from spec.schema import complaints

OFTEN = HaltingSpec(epsilon=0.3, weight=0.1)
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "rotary, grouped": ("heads=4/2, position=rotary, mask=causal", {}),
    "window and sink": ("heads=2, position=alibi, mask=causal & (window(3) | sink(1))", {"norm": "rms"}),
    "post-norm, T5": ("heads=2, position=t5(buckets=8, max_distance=16), mask=causal", {"norm_placement": "post"}),
    "top-k blocks": ("heads=2, mask=causal, selector=top_k_blocks(2, 2)", {"position": "learned"}),
    "parallel LSTM branch": ("heads=2, mask=causal, branches=lstm", {}),
    "LSTM alone": ("branches=lstm", {}),
    "linear layers": ("branches=short_conv(3) + linear_attention", {}),
    "value residual": ("heads=4/2, mask=causal, combine=value_residual + gate", {"position": "sinusoidal"}),
    "latent heads": ("heads=latent(2, 6, rotary=4), position=rotary, mask=causal", {}),
    "batch norm": ("heads=2, mask=causal, combine=differential, normalizer=softmax_off_by_one", {"norm": "batch"}),
    "cross-attention": ("heads=2, position=rotary, mask=causal, cross=attention(heads=2)", {}),
}


def halting(name: str = "rotary, grouped", *, depth: int = 3, spec: HaltingSpec | None = None) -> Decoder:
    """A decoder; where `spec` is not given, about a third of the tokens halts after each layer."""
    text, changes = MODELS[name]
    model = decoder(text, depth=depth, halting=spec or OFTEN, **changes)
    if spec is None:
        assert model.halting is not None
        states: list[Tensor] = []
        hook = model.layers[0].register_forward_hook(lambda module, given, result: states.append(result[0]))
        with torch.no_grad():
            model(tokens(4, 16, seed=1), context=context_for(model, 4))
            told = states[0] @ model.halting.weight
            model.halting.weight.div_(told.std())
            model.halting.bias.fill_(0.4 - float(told.mean() / told.std()))
        hook.remove()
    return model


def by_masking(model: Decoder, ids: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Logits and depths by the formula, with whole rows in every layer: who has halted is padding there."""
    assert model.halting is not None
    context = context_for(model, ids.shape[0])
    x = model.embedding(ids, layout, last=ids.shape[1] - 1)
    valid = layout.query.valid
    on = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    total, y, depths, carry = torch.zeros_like(x[..., 0]), torch.zeros_like(x), torch.zeros_like(ids), None
    for index, block in enumerate(model.layers):
        positions = layout.query.map(lambda t: t.expand(ids.shape))
        positions = type(positions)(positions.index, positions.position, positions.document, positions.prefix, on)
        here = Layout(Layout.padded(on).kind, positions, positions)
        places = None if context is None else Layout.plain(context.shape[1]).query
        across = None if places is None else Layout.cross(positions, places)
        x, given = block(x, here, carry=carry, context=context, context_layout=across)
        carry = given.carry
        p = torch.sigmoid(x @ model.halting.weight + model.halting.bias)
        stop = (total + p >= 1 - model.halting.spec.epsilon) | torch.tensor(index + 1 == len(model.layers))
        depths = depths + on
        y = y + torch.where(on, torch.where(stop, 1 - total, p), 0.0)[..., None] * torch.where(on[..., None], x, 0.0)
        total, on = total + p, on & ~stop
    y = y if model.norm is None else model.norm(y, valid)
    return y @ model.embedding.table.T, depths


def test_two_tokens_by_hand() -> None:
    """One number a token: h = 2, 0 after the first layer, then what is left is 1, then 5; w = 1, b = 0."""
    gate = Halting(HaltingSpec(weight=10.0, epsilon=0.2, bias=0.0), width=1).double()
    with torch.no_grad():
        gate.weight.fill_(1.0)
    walk = Walk(gate, torch.zeros(1, 2, 1, dtype=torch.float64), Layout.plain(2))
    walk.after(
        torch.tensor([[[2.0], [0.0]]], dtype=torch.float64), last=False
    )  # p = .8808 >= .8: halts; p = .5 goes on
    assert walk.x.tolist() == [[[0.0]]]
    assert walk.layout.query.position.tolist() == [[1]]
    walk.after(torch.tensor([[[-1.0]]], dtype=torch.float64), last=False)  # p = .2689, together .7689 < .8
    assert not walk.empty
    walk.after(torch.tensor([[[5.0]]], dtype=torch.float64), last=True)
    assert walk.empty
    assert walk.depths.tolist() == [[1, 3]]
    rest = 1 - 0.5 - 0.2689414213699951
    assert walk.output.flatten().tolist() == pytest.approx([2.0, 0.5 * 0 + 0.2689414213699951 * -1 + rest * 5])
    assert walk.cost.item() == pytest.approx(10.0 * ((1 + 1.0) + (3 + rest)) / 2)


@pytest.mark.parametrize("name", MODELS)
def test_equals_whole_rows_in_which_halted_tokens_are_padding(name: str) -> None:
    model, ids = halting(name), tokens(2, 9)
    real = torch.tensor([[False, False, *[True] * 7], [*[True] * 6, False, True, False]])
    found = model(ids, Layout.padded(real), context=context_for(model, 2))
    expected, depths = by_masking(model, ids, Layout.padded(real))
    assert found.depths is not None
    assert torch.equal(found.depths, depths)
    assert len(set(depths[real].tolist())) > 1, "the case is too easy: tokens halt together"
    assert torch.allclose(found.logits[real], expected[real], atol=1e-10)
    mixture = torch.linspace(-1, 1, int(real.sum()) * 17, dtype=torch.float64).view(-1, 17)
    parameters = dict(model.named_parameters())
    gradients = [
        torch.autograd.grad(
            (logits[real] * mixture).sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        for logits in (found.logits, expected)
    ]
    for parameter, one, other in zip(parameters, *gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-9), parameter


@pytest.mark.parametrize("name", [name for name in MODELS if name != "cross-attention"])
def test_documents_of_a_packed_row_are_isolated(name: str) -> None:
    model, ids = halting(name), tokens(2, 9)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, -1], [3, 3, 5, 5, 5, 5, 5, 5, 5]])
    found = model(ids, Layout.packed(documents))
    assert found.depths is not None
    assert found.depths[0, -1] == 0
    for row, begin, end in ((0, 0, 4), (0, 4, 8), (1, 0, 2), (1, 2, 9)):
        alone = model(ids[row : row + 1, begin:end])
        assert alone.depths is not None
        assert torch.equal(found.depths[row, begin:end], alone.depths[0])
        assert torch.allclose(found.logits[row, begin:end], alone.logits[0], atol=1e-10)


@pytest.mark.parametrize("chunks", [(4, 1, 1, 3), (1,) * 9])
@pytest.mark.parametrize("name", MODELS)
def test_decoding_piece_by_piece_equals_whole_rows(name: str, chunks: tuple[int, ...]) -> None:
    model, ids = halting(name), tokens(2, 9)
    context = context_for(model, 2)
    expected = model(ids, context=context)
    given = {} if context is None else {"context": context}
    assert expected.depths is not None
    assert 1 < expected.depths.double().mean() < 3
    assert torch.allclose(in_chunks(model, ids, chunks, **given), expected.logits, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_padded_prompts_decode_like_rows_without_padding(name: str) -> None:
    model, prompt, more = halting(name), tokens(2, 5), tokens(2, 4, seed=9)
    valid = torch.tensor([[False, True, True, False, True], [True] * 5])
    context = context_for(model, 2)
    given = {} if context is None else {"context": context}
    found = in_chunks(model, torch.cat([prompt, more], 1), (5, 1, 3), layout=Layout.padded(valid), **given)
    for row in range(2):
        alone = torch.cat([prompt[row][valid[row]], more[row]])[None]
        expected = model(alone, context=None if context is None else context[row : row + 1]).logits[0]
        real = torch.cat([valid[row], torch.ones(4, dtype=torch.bool)])
        assert torch.allclose(found[row][real], expected, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_flows_from_the_future(name: str) -> None:
    model, ids = halting(name), tokens(1, 9)
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 17
    context = context_for(model, 1)
    before, after = (model(x, context=context) for x in (ids, changed))
    assert before.depths is not None
    assert after.depths is not None
    assert torch.equal(before.depths[:, :5], after.depths[:, :5])
    assert torch.allclose(before.logits[:, :5], after.logits[:, :5], atol=1e-12)
    assert not torch.allclose(before.logits[:, 5:], after.logits[:, 5:])


def test_halted_tokens_are_not_computed() -> None:
    model, ids = halting(), tokens(2, 12)
    computed: list[int] = []
    for block in model.layers:
        block.feed_forward.register_forward_hook(lambda module, given, result: computed.append(result.shape[1]))
    depths = model(ids).depths
    assert depths is not None
    longest = [int((depths > place).sum(1).max()) for place in range(3)]  # of the rows' tokens that reach each layer
    assert computed == longest
    assert longest[0] == 12 > longest[1] > longest[2] > 0
    state = model.start(2)
    model(ids, state=state)
    held = [kept.cache.buffers["k"][:, :, : kept.cache.length].shape[2] for kept in state.layers if kept.cache]
    assert held == longest


def test_layers_that_no_token_reaches_are_skipped() -> None:
    model = halting(spec=HaltingSpec(bias=20.0))
    reached: list[int] = []
    for place, block in enumerate(model.layers):
        block.register_forward_hook(lambda module, given, result, place=place: reached.append(place))
    ids = tokens(2, 5)
    found = model(ids)
    assert reached == [0]
    assert found.depths is not None
    assert (found.depths == 1).all()
    shallow = decoder(MODELS["rotary, grouped"][0], depth=1)
    shallow.load_state_dict({n: t for n, t in model.state_dict().items() if n in shallow.state_dict()})
    assert torch.allclose(found.logits, shallow(ids).logits, atol=1e-12)
    assert torch.allclose(in_chunks(model, ids, (2, 1, 2)), found.logits, atol=1e-12)


def test_tokens_that_never_halt_are_the_plain_model() -> None:
    model = halting(spec=HaltingSpec(bias=-60.0), depth=4)
    plain = decoder(MODELS["rotary, grouped"][0], depth=4)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("halting")})
    ids = tokens(2, 7)
    found = model(ids)
    assert torch.allclose(found.logits, plain(ids).logits, atol=1e-12)
    assert found.losses["halting"].item() == pytest.approx(0.01 * (4 + 1))
    assert plain(ids).depths is None


@pytest.mark.parametrize("name", ["rotary, grouped", "value residual", "top-k blocks"])
def test_states_are_reordered_and_shortened(name: str) -> None:
    model, prompt, more = halting(name), tokens(3, 6), tokens(3, 3, seed=4)
    state, swap = model.start(3), torch.tensor([2, 0, 0])
    with torch.no_grad():
        model(prompt[:, :4], state=state)
        model(prompt[:, 4:], state=state)
        state.reorder(swap)
        logits = model(more, state=state).logits
        assert torch.allclose(logits, model(torch.cat([prompt[swap], more], 1)).logits[:, 6:], atol=1e-10)
        for length in (5, 3, 1):
            state.truncate(length)
            again = model(more, state=state).logits
            shorter = model(torch.cat([prompt[swap, :length], more], 1)).logits[:, length:]
            assert torch.allclose(again, shorter, atol=1e-10)
        state.truncate(0)
        assert torch.allclose(model(prompt, state=state).logits, model(prompt).logits, atol=1e-10)


def test_what_halted_tokens_would_have_become_cannot_matter() -> None:
    """Deeper layers see neither the halted tokens nor what fills the shorter rows up."""
    model, ids = halting(), tokens(2, 9)
    reference = model(ids)
    poisoned = []

    def poison(module: object, given: tuple[Tensor, Layout]) -> tuple[Tensor, Layout]:
        x, layout = given
        here = layout.query.valid
        if here is None or bool(here.all()):
            return given
        poisoned.append(module)
        return x.masked_fill(~here[..., None], 1e6), layout

    for block in model.layers:
        block.register_forward_pre_hook(poison)
    assert torch.allclose(model(ids).logits, reference.logits, atol=1e-12)
    assert poisoned


def test_the_gradient_of_the_cost_is_that_of_the_remainders() -> None:
    model, ids = halting(), tokens(2, 7)
    assert model.halting is not None
    bias, step = model.halting.bias, 1e-6
    (found,) = torch.autograd.grad(model(ids).losses["halting"], bias)
    costs = []
    with torch.no_grad():
        for move in (step, -2 * step):  # small enough that no token halts elsewhere
            bias.add_(move)
            costs.append(model(ids).losses["halting"])
    assert found.item() == pytest.approx(((costs[0] - costs[1]) / (2 * step)).item(), rel=1e-5)
    assert found.item() < 0  # sooner is cheaper


def test_a_dear_cost_makes_tokens_halt_sooner() -> None:
    depths = []
    for weight in (0.0, 1.0):
        spec = ModelSpec(
            vocab_size=17, width=16, depth=4, layers=(layer("heads=2, position=rotary, mask=causal"),),
            halting=HaltingSpec(weight=weight, bias=-1.5),
        )  # fmt: skip
        model = build(spec, seed=0).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        for step in range(25):
            ids = tokens(4, 9, seed=step)
            output = model(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            (loss + output.losses["halting"]).backward()
            optimizer.step()
        output = model.eval()(tokens(4, 8, seed=99))
        depths.append(output.depths.double().mean().item())
    assert depths[1] < 2.5 < depths[0]


def test_bfloat16_sums_in_float32() -> None:
    model = halting().bfloat16()
    found = model(tokens(2, 9))
    assert found.logits.dtype is torch.bfloat16
    assert found.losses["halting"].dtype is torch.float32
    assert found.logits.isfinite().all()


def test_the_spec_is_written_and_read() -> None:
    spec = halting().spec
    assert from_data(ModelSpec, to_data(spec), registry) == spec
    text = to_toml(spec)
    assert "[halting]" in text
    assert from_toml(ModelSpec, text, registry) == spec
    plain = spec.replace(halting=None)
    assert "halting" not in to_toml(plain)
    schema = json_schema(ModelSpec, registry)
    assert complaints(to_data(spec), schema) == complaints(to_data(plain), schema) == []
    assert complaints({**to_data(spec), "halting": {"weight": "high"}}, schema)


@pytest.mark.parametrize(("text", "changes", "reason"), [
    ("heads=2", {"depth": 1}, "needs a depth of at least 2, got 1"),
    ("heads=2, mask=causal, memory=transformer_xl(4)", {}, "memory=transformer_xl would have nothing to remember"),
    ("heads=2, mask=causal, scores=residual_scores", {}, "residual_scores adds the scores of all layers"),
    ("heads=2", {"halting": {"epsilon": 0.0}}, r"HaltingSpec.epsilon: .*greater than 0, got 0\.0"),
    ("heads=2", {"halting": {"weight": -1.0}}, r"HaltingSpec.weight: .*greater than or equal to 0, got -1\.0"),
    ("heads=2", {"halting": {"wait": 1.0}}, "HaltingSpec.wait is unknown"),
])  # fmt: skip
def test_what_does_not_go_with_halting_is_refused(text: str, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        ModelSpec(**{"vocab_size": 5, "width": 8, "layers": (layer(text),), "halting": HaltingSpec(), **changes})


def test_attention_maps_are_refused() -> None:
    with pytest.raises(SpecError, match="a token that halts has no attention in deeper layers"):
        halting()(tokens(1, 4), wanted=frozenset({"output", "weights"}))


def test_it_writes_on_as_whole_rows_would() -> None:
    model, ids = halting(), tokens(2, 6)
    written = generate(model, ids, tokens=6, sampling=Sampling(greedy=True))
    for place in range(6):
        known = torch.cat([ids, written[:, :place]], 1)
        assert torch.equal(model(known).logits[:, -1].argmax(-1), written[:, place])


def test_it_comes_back_from_its_folder(tmp_path: Path) -> None:
    model, ids = halting(), tokens(2, 9)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert loaded.spec == model.spec
    found, expected = loaded(ids), model(ids)
    assert torch.equal(found.logits, expected.logits)
    assert found.depths is not None
    assert expected.depths is not None
    assert torch.equal(found.depths, expected.depths)
