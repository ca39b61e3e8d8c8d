from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.spec.model import ModelSpec
from models.language import WIDTH, context_for, decoder, in_chunks, loss_of, tokens
from models.probes import PROBES

MIXED = ("heads=4/2, mask=window(3), position=rotary", "heads=4/2, mask=causal, scores=qk_norm, combine=gate")
PADDED = [
    MIXED,
    ("heads=2, mask=causal, position=alibi, branches=lstm",),
    ("heads=2, mask=causal, position=t5(buckets=8, max_distance=16), normalizer=softmax_off_by_one",),
    ("heads=latent(2, 6, rotary=4), position=rotary, mask=causal & (window(3) | sink(1))",),
    ("heads=2, mask=causal, selector=top_k_blocks(2, 2)",),
]


@pytest.mark.parametrize("layers", PADDED, ids=lambda layers: layers[0])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_prompts_decode_like_rows_without_padding(layers: tuple[str, ...], side: str) -> None:
    model = decoder(*layers, position="learned")
    prompt, more = tokens(2, 5), tokens(2, 4, seed=9)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[0, {"left": [0, 1], "right": [3, 4], "both": [0, 4]}[side]] = False
    found = in_chunks(model, torch.cat([prompt, more], 1), (5, 1, 3), layout=Layout.padded(valid))
    for row in range(2):
        kept = torch.cat([prompt[row][valid[row]], more[row]])[None]
        expected = model(kept).logits[0]
        real = torch.cat([valid[row], torch.ones(4, dtype=torch.bool)])
        assert torch.allclose(found[row][real], expected, atol=1e-10)


@pytest.mark.parametrize("layers", PADDED, ids=lambda layers: layers[0])
@pytest.mark.parametrize("trailing", [False, True])
def test_after_a_packed_prompt_decoding_goes_on_in_the_last_document(layers: tuple[str, ...], trailing: bool) -> None:
    model = decoder(*layers, position="sinusoidal")
    ids = tokens(1, 11)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, -1 if trailing else 1]])
    found = in_chunks(model, ids, (7, 1, 3), layout=Layout.packed(documents))
    last = [4, 5, 7, 8, 9, 10] if trailing else list(range(4, 11))
    assert torch.allclose(found[:, last], model(ids[:, last]).logits, atol=1e-10)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch"])
@pytest.mark.parametrize("layers", PADDED, ids=lambda layers: layers[0])
def test_what_padding_holds_changes_neither_logits_nor_gradients(layers: tuple[str, ...], norm: str) -> None:
    model = decoder(*layers, norm=norm).train()
    valid = torch.tensor([[False, True, True, True, True], [True, True, True, False, False]])
    found = []
    for seed in (1, 2):
        ids = torch.where(valid, tokens(2, 5), tokens(2, 5, seed=seed))
        model.zero_grad()
        logits = model(ids, Layout.padded(valid)).logits[valid]
        logits.square().sum().backward()
        grads = [p.grad.clone() for name, p in model.named_parameters() if p.grad is not None]
        found.append([logits.detach(), *grads])
    for first, second in zip(*found, strict=True):
        assert torch.allclose(first, second, atol=1e-10)


def test_a_state_can_be_reordered_and_shortened() -> None:
    model = decoder(*MIXED)
    prompt, more = tokens(3, 5), tokens(3, 2, seed=4)
    state = model.start(3)
    with torch.no_grad():
        model(prompt, state=state)
        state.reorder(torch.tensor([2, 0, 0]))
        logits = model(more, state=state).logits
        expected = model(torch.cat([prompt[[2, 0, 0]], more], 1)).logits[:, 5:]
        assert torch.allclose(logits, expected, atol=1e-10)
        state.truncate(4)
        assert state.length == 4
        again = model(more, state=state).logits
        shorter = model(torch.cat([prompt[[2, 0, 0], :4], more], 1)).logits[:, 4:]
        assert torch.allclose(again, shorter, atol=1e-10)
        state.truncate(0)
        assert torch.allclose(model(prompt, state=state).logits, model(prompt).logits, atol=1e-10)


@pytest.mark.parametrize("name", ["parallel LSTM branch", "cross-attention", "Transformer-XL memory", "latent heads"])
def test_every_kind_of_state_is_reordered(name: str) -> None:
    text, changes = PROBES[name]
    model = decoder(text, **changes)
    context, prompt, more = context_for(model, 2), tokens(2, 4), tokens(2, 3, seed=5)
    valid = None if context is None else torch.tensor([[True] * 5, [True, True, False, True, False]])
    given = {} if context is None else {"context": context, "context_valid": valid}
    swap = torch.tensor([1, 0])
    state = model.start(2)
    with torch.no_grad():
        model(prompt, state=state, **given)
        state.reorder(swap)
        found = model(more, state=state).logits
        swapped = {key: None if held is None else held[swap] for key, held in given.items()}
        expected = model(torch.cat([prompt[swap], more], 1), **swapped).logits[:, 4:]
    assert torch.allclose(found, expected, atol=1e-10)


def test_what_cannot_be_truncated_says_so() -> None:
    model = decoder("heads=2, mask=causal, branches=lstm")
    state = model.start(1)
    model(tokens(1, 4), state=state)
    with pytest.raises(SpecError, match="a recurrent state or a segment memory cannot be truncated"):
        state.truncate(2)
    with pytest.raises(SpecError, match="a length from 0 to 4, got 5"):
        state.truncate(5)


def test_a_branch_without_a_state_is_truncated_with_the_cache() -> None:
    model, ids = decoder("heads=2, mask=causal, branches=layer_norm"), tokens(1, 6)
    state = model.start(1)
    model(ids, state=state)
    state.truncate(3)
    assert torch.allclose(model(ids[:, 3:], state=state).logits, model(ids).logits[:, 3:], atol=1e-10)


def test_keys_of_a_context_are_normalised_once_however_long_the_text() -> None:
    model = decoder("heads=2, mask=causal, cross=attention(heads=2, scores=qk_norm)")
    ids, context = tokens(2, 6), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    assert torch.allclose(
        in_chunks(model, ids, (2, 1, 1, 2), context=context), model(ids, context=context).logits, atol=1e-10
    )


def test_padding_of_a_context_is_never_looked_at() -> None:
    model = decoder("heads=2, mask=causal, cross=attention(heads=2)")
    ids, context = tokens(2, 6), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    valid = torch.tensor([[True, True, True, False, False], [True] * 5])
    found = in_chunks(model, ids, (2, 1, 3), context=context, context_valid=valid)
    alone = model(ids[:1], context=context[:1, :3]).logits
    assert torch.allclose(found[:1], alone, atol=1e-10)


def test_a_context_is_given_exactly_where_it_is_needed() -> None:
    with pytest.raises(SpecError, match="this model has cross-attention: give it a context"):
        decoder("heads=2, mask=causal, cross=attention(heads=2)")(tokens(1, 3))
    with pytest.raises(SpecError, match="this model has no cross-attention"):
        decoder("heads=2, mask=causal")(tokens(1, 3), context=torch.randn(1, 2, WIDTH, dtype=torch.float64))
    with pytest.raises(SpecError, match="a row needs at least one token, got 0"):
        decoder("heads=2, mask=causal")(tokens(1, 0))


def test_a_prefix_is_decoded_after_the_whole_of_it() -> None:
    model = decoder("heads=2, mask=causal | prefix(3)")
    ids = tokens(2, 8)
    assert torch.allclose(in_chunks(model, ids, (3, 1, 4)), model(ids).logits, atol=1e-10)
    with pytest.raises(SpecError, match="the prompt must hold at least 3 tokens in each row, got 2"):
        in_chunks(model, ids, (2, 6))
    valid = torch.tensor([[False, False, True, True], [True] * 4])
    with pytest.raises(SpecError, match="in each row, got 2"):  # a padded row whose real part is too short
        in_chunks(model, ids[:, :5], (4, 1), layout=Layout.padded(valid))


def test_the_future_is_never_seen_by_any_accepted_layer() -> None:
    for text, changes in PROBES.values():
        model = decoder(text, **changes)
        ids, context = tokens(1, 8), context_for(model, 1)
        changed = ids.clone()
        changed[:, 5:] = (changed[:, 5:] + 1) % 17
        before, after = (model(x, context=context).logits for x in (ids, changed))
        assert torch.allclose(before[:, :5], after[:, :5], atol=1e-12), text
        assert not torch.allclose(before[:, 5:], after[:, 5:]), text


def test_layers_repeat_over_the_depth() -> None:
    model = decoder(*MIXED, depth=5)
    kinds = [block.layer.attention.mask.kind for block in model.layers]
    assert kinds == ["window", "causal", "window", "causal", "window"]
    ids = tokens(2, 9)
    assert torch.allclose(in_chunks(model, ids, (4, 1, 4)), model(ids).logits, atol=1e-10)


@pytest.mark.parametrize("changes", [
    {"norm": "layer", "norm_placement": "post", "bias": True},
    {"norm": "rms", "norm_placement": "pre", "feed_forward": {"name": "swiglu"}},
    {"norm": "batch", "feed_forward": {"name": "relu2", "hidden": 24}},
    {"feed_forward": {"name": "none"}, "tie_embeddings": False, "logit_soft_cap": 5.0},
    {"scale_embeddings": True, "position": "sinusoidal", "dropout": 0.1, "attention_dropout": 0.1},
])  # fmt: skip
def test_every_part_of_a_model_learns_and_decodes(changes: dict[str, object]) -> None:
    spec = ModelSpec(
        vocab_size=17,
        width=WIDTH,
        depth=2,
        context=32,
        layers=tuple(map(layer, MIXED)),
        **changes,  # type: ignore[arg-type]
    )
    model = build(spec, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = torch.arange(60).remainder(17).view(5, 12)
    losses = []
    for _ in range(12):
        loss = loss_of(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name, p in model.named_parameters() if not (p.grad != 0).any()] == []
    model.eval()
    assert torch.allclose(in_chunks(model, ids, (5, 1, 6)), model(ids).logits, atol=1e-4)


def test_equal_seeds_make_equal_models_and_leave_the_random_state_alone() -> None:
    spec = ModelSpec(vocab_size=5, width=8, depth=1, layers=(layer("heads=2"),))
    before = torch.random.get_rng_state()
    first, second, third = build(spec, seed=1), build(spec, seed=1), build(spec, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b, c in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.std() == 0 or not torch.equal(a, c)


def test_projections_into_the_residual_stream_may_begin_at_zero() -> None:
    spec = ModelSpec(vocab_size=5, width=8, depth=2, layers=(layer("heads=2, mask=causal"),), output_init="zero")
    model = build(spec, seed=0)
    zero = {name for name, p in model.named_parameters() if not p.any()}
    assert zero == {f"layers.{i}.{part}" for i in (0, 1) for part in ("attention.heads.0.out", "feed_forward.down")}


def test_ties_the_embeddings_unless_told_otherwise() -> None:
    tied, untied = decoder("heads=2"), decoder("heads=2", tie_embeddings=False)
    assert tied.head is None
    assert untied.head is not None
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 17 * WIDTH


def test_wanted_weights_come_back_from_every_layer() -> None:
    out = decoder(*MIXED)(tokens(2, 6), wanted=frozenset({"output", "weights"}))
    assert len(out.attention) == 2
    weights = [record["weights"] for record in out.attention]
    assert all(torch.allclose(w.sum(-1), torch.ones(2, 4, 6, dtype=torch.float64)) for w in weights)
    assert (weights[0][..., 5, :3] == 0).all()  # a window of 3
    assert (weights[1][..., 5, :3] > 0).all()


def test_learned_positions_end_where_the_context_does() -> None:
    model = decoder("heads=2, mask=causal", position="learned", context=6)
    model(tokens(1, 6))
    with pytest.raises(SpecError, match="position 6 has no learned vector: the model knows 6 positions"):
        model(tokens(1, 7))
    with pytest.raises(SpecError, match="position 6 has no learned vector"):
        in_chunks(model, tokens(1, 7), (6, 1))
