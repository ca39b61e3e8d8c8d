"""Encoders and encoder-decoders: padding, step-by-step decoding, gradients, shared tables, folders, specs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attentune.errors import CheckpointError, SpecError
from attentune.kernels import Layout
from attentune.mechanisms import layer, registry
from attentune.models.build import build, build_encoder_decoder, seeded
from attentune.models.checkpoint import load_model, save_model, weights_of
from attentune.models.encoder import Encoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.codec import from_json, from_toml, to_json, to_toml
from attentune.spec.model import ModelSpec
from models.language import tokens
from models.seq2seq import ENCODER, PAIRS, encoder_decoder, spec_of

pairs = pytest.mark.parametrize("name", PAIRS)
REAL = torch.tensor([[True] * 5, [True, True, True, False, False], [False, True, True, True, True]])
TARGET_REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 6])


@pairs
@torch.no_grad()
def test_padding_of_source_and_target_changes_nothing(name: str) -> None:
    model, source, target = encoder_decoder(name), tokens(3, 5), tokens(3, 6, seed=1)
    together = model(target, Layout.padded(TARGET_REAL), source=source, source_layout=Layout.padded(REAL)).logits
    for row in range(3):
        alone = model(target[row][TARGET_REAL[row]][None], source=source[row][REAL[row]][None]).logits
        assert torch.allclose(together[row][TARGET_REAL[row]], alone[0], atol=1e-10)


@pairs
def test_what_padding_holds_changes_no_gradient(name: str) -> None:
    model, found = encoder_decoder(name), []
    for seed in (1, 2):
        source = torch.where(REAL, tokens(3, 5), tokens(3, 5, seed=seed))
        target = torch.where(TARGET_REAL, tokens(3, 6), tokens(3, 6, seed=seed))
        model.zero_grad()
        logits = model(target, Layout.padded(TARGET_REAL), source=source, source_layout=Layout.padded(REAL)).logits
        logits[TARGET_REAL].square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(model.parameters()))
    for first, second in zip(*found, strict=True):
        assert torch.allclose(first, second, atol=1e-9)


@pairs
@pytest.mark.parametrize("chunks", [(1,) * 6, (2, 1, 3)])
@torch.no_grad()
def test_step_by_step_equals_whole_rows(name: str, chunks: tuple[int, ...]) -> None:
    model, source, target = encoder_decoder(name), tokens(3, 5), tokens(3, 6, seed=1)
    whole = model(target, source=source, source_layout=Layout.padded(REAL)).logits
    state, encoded, parts = model.start(3), model.encode(source, Layout.padded(REAL)), []
    for place, piece in enumerate(target.split(list(chunks), 1)):
        parts.append(model(piece, state=state, encoded=encoded if place == 0 else None).logits)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10)


@pairs
@torch.no_grad()
def test_rows_of_a_state_and_of_a_source_are_reordered(name: str) -> None:
    model, source, target = encoder_decoder(name), tokens(3, 5), tokens(3, 6, seed=1)
    rows = torch.tensor([2, 0, 0, 1])
    encoded, state = model.encode(source, Layout.padded(REAL)), model.start(3)
    model(target[:, :3], state=state, encoded=encoded)
    state.reorder(rows)
    found = model(target[rows, 3:], state=state).logits
    again = model(target[rows], encoded=encoded.rows(rows)).logits
    assert torch.allclose(found, again[:, 3:], atol=1e-10)
    direct = model(target[rows], source=source[rows], source_layout=Layout.padded(REAL[rows])).logits
    assert torch.allclose(again, direct, atol=1e-10)


@pairs
def test_every_part_learns(name: str) -> None:
    model = build_encoder_decoder(spec_of(name), seed=0).train()
    source = torch.arange(40).remainder(13).view(5, 8) + 2
    target = torch.cat([torch.ones(5, 1, dtype=torch.long), source.flip(1)], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses: list[float] = []
    idle: list[str] = []
    for _ in range(30):
        output = model(target[:, :-1], source=source)
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), target[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + sum(output.losses.values())).backward()
        if not losses:  # later every token may halt before the last layer
            idle = [key for key, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert idle == []
    assert any(key.startswith("encoder.") for key, _ in model.named_parameters())


@torch.no_grad()
def test_the_source_is_seen_both_ways_and_the_target_forwards_alone() -> None:
    model, source, target = encoder_decoder("plain"), tokens(1, 5), tokens(1, 6, seed=1)
    before = model(target, source=source).logits
    changed = source.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 17
    assert (model(target, source=changed).logits - before).abs().amax(-1).min() > 1e-6
    later = target.clone()
    later[0, 4:] = (later[0, 4:] + 1) % 17
    after = model(later, source=source).logits
    assert torch.allclose(after[:, :4], before[:, :4], atol=1e-12)
    assert not torch.allclose(after[:, 4:], before[:, 4:])


def test_weights_of_cross_attention_are_handed_back_beside_its_own() -> None:
    model, source, target = encoder_decoder("plain"), tokens(3, 5), tokens(3, 6, seed=1)
    both = model(target, source=source, source_layout=Layout.padded(REAL), wanted=frozenset({"output", "weights"}))
    assert [sorted(extra) for extra in both.attention] == [["cross.weights", "weights"]] * 2
    for extra in both.attention:
        weights = extra["cross.weights"]
        assert weights.shape == (3, 2, 6, 5)
        assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 6, dtype=torch.float64))
        assert (weights[1, :, :, 3:] == 0).all() and (weights[1, :, :, :3] > 0).all()
    alone = model(
        target, source=source, source_layout=Layout.padded(REAL), wanted=frozenset({"output", "cross.weights"})
    )
    assert [sorted(extra) for extra in alone.attention] == [["cross.weights"]] * 2
    assert torch.allclose(alone.attention[1]["cross.weights"], both.attention[1]["cross.weights"])
    assert torch.allclose(both.logits, model(target, source=source, source_layout=Layout.padded(REAL)).logits)


def test_weights_of_cross_attention_need_one() -> None:
    model = build(ModelSpec(vocab_size=17, width=16, layers=(layer("heads=2, mask=causal"),)), seed=0)
    with pytest.raises(SpecError, match=r"no cross-attention: nothing gives wanted=cross\.weights"):
        model(tokens(1, 3), wanted=frozenset({"output", "cross.weights"}))


@torch.no_grad()
def test_weights_are_handed_back_step_by_step() -> None:
    model, source, target = encoder_decoder("plain"), tokens(2, 5), tokens(2, 4, seed=1)
    wanted = frozenset({"output", "cross.weights"})
    whole = model(target, source=source, wanted=wanted).attention[-1]["cross.weights"]
    state, steps = model.start(2), []
    for place in range(4):
        given = model(target[:, place, None], source=source if place == 0 else None, state=state, wanted=wanted)
        steps.append(given.attention[-1]["cross.weights"])
    assert torch.allclose(torch.cat(steps, 2), whole, atol=1e-12)


def test_a_shared_table_is_one_parameter_and_saved_once(tmp_path: Path) -> None:
    model = encoder_decoder("shared table")
    assert model.encoder.embedding.table is model.decoder.embedding.table
    names = [name for name in weights_of(model) if name.endswith("embedding.table")]
    assert names == ["encoder.embedding.table"]
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert isinstance(loaded, EncoderDecoder)
    assert loaded.encoder.embedding.table is loaded.decoder.embedding.table
    own = encoder_decoder("plain")
    assert own.encoder.embedding.table is not own.decoder.embedding.table


@pairs
def test_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    model = encoder_decoder(name)
    save_model(tmp_path / "model", model)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["stack"] == "encoder-decoder"
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded.model, EncoderDecoder)
    assert loaded.model.spec == model.spec and not loaded.model.training
    source, target = tokens(2, 5), tokens(2, 4, seed=1)
    assert torch.equal(loaded.model(target, source=source).logits, model(target, source=source).logits)
    with pytest.raises(CheckpointError, match="holds an encoder-decoder; this needs a language model"):
        _ = loaded.decoder


def test_an_encoder_comes_back_from_its_folder(tmp_path: Path) -> None:
    model = seeded(lambda: Encoder(ENCODER), 1).eval()
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert isinstance(loaded, Encoder)
    assert torch.equal(loaded(tokens(2, 5)).x, model(tokens(2, 5)).x)


def test_a_folder_that_does_not_say_what_it_holds_is_a_decoder(tmp_path: Path) -> None:
    model = build(ModelSpec(vocab_size=17, width=16, layers=(layer("heads=2, mask=causal"),)), seed=0).eval()
    save_model(tmp_path / "model", model)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("stack") == "decoder"
    path.write_text(json.dumps(config))
    assert torch.equal(load_model(tmp_path / "model").decoder(tokens(1, 4)).logits, model(tokens(1, 4)).logits)
    for stack, message in (
        ("decodr", "stack 'decodr' is unknown; did you mean 'decoder'"),
        ("encoder-decoder", "describes no encoder-decoder: an encoder-decoder needs the spec of its encoder"),
    ):
        path.write_text(json.dumps({**config, "stack": stack}))
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / "model")


@pairs
def test_the_spec_comes_back_from_toml_and_json(name: str) -> None:
    spec = spec_of(name)
    assert from_toml(ModelSpec, to_toml(spec), registry) == spec
    assert from_json(ModelSpec, to_json(spec), registry) == spec
    assert "[encoder]" in to_toml(spec)


@pytest.mark.parametrize(("changes", "message"), [
    ({"share": ("embedding",), "encoder": None}, "this model has no encoder"),
    ({"share": ("embedding",), "vocab_size": 9}, "got 17 x 16 in the encoder and 9 x 16 in the decoder"),
    ({"share": ("embedding",), "encoder": ENCODER.replace(width=8)}, "got 17 x 8 in the encoder and 17 x 16 in the"),
    ({"layers": (layer("heads=2, mask=causal"),)}, "nothing looks at the encoder"),
    ({"encoder": spec_of("plain")}, "an encoder looks at its own tokens alone"),
    ({"encoder": ENCODER.replace(layers=(layer("heads=2, mask=causal, memory=transformer_xl(4)"),))},
     "neither takes a memory"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of("plain").replace(**changes)


def test_the_source_is_given_once() -> None:
    model, source, target = encoder_decoder("plain"), tokens(1, 5), tokens(1, 3)
    with pytest.raises(SpecError, match="not both"):
        model(target, source=source, encoded=model.encode(source))
    with pytest.raises(SpecError, match="give it a context"):
        model(target)
    with pytest.raises(SpecError, match="needs the spec of its encoder"):
        EncoderDecoder(ModelSpec(vocab_size=5, width=8, layers=(layer("heads=2, cross=attention(heads=2)"),)))
