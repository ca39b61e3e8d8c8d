"""Difficult layers: parsed, built, trained, compiled, saved and loaded, and decoded on a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.checkpoint import load_model, save_model
from attentune.spec.model import ModelSpec
from models.language import context_for, decoder, in_chunks, loss_of, tokens
from models.probes import PROBES
from unchecked import run_without_shape_checks

CASES = Path(__file__).with_name("compiled_walls.py")
every_probe = pytest.mark.parametrize("name", PROBES)


@every_probe
def test_is_read_from_its_text_and_prints_it_back(name: str) -> None:
    text, changes = PROBES[name]
    assert str(layer(text)) == text
    model = decoder(text, **changes)
    assert model.spec == ModelSpec(vocab_size=17, width=16, depth=2, context=32, layers=(layer(text),), **changes)


@every_probe
def test_learns_and_every_parameter_receives_a_gradient(name: str) -> None:
    text, changes = PROBES[name]
    spec = ModelSpec(vocab_size=17, width=16, depth=2, context=32, layers=(layer(text),), **changes)
    model = build(spec, seed=0).train()
    ids = torch.arange(60).remainder(17).view(5, 12)  # counting: easily learnt
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = loss_of(model, ids)
        optimizer.zero_grad()
        loss.backward()
        missing = [key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert not missing
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    still = [key for key, p in model.named_parameters() if not (p.grad != 0).any()]
    assert not still


@every_probe
def test_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    text, changes = PROBES[name]
    model = decoder(text, **changes)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert loaded.spec == model.spec
    ids = tokens(2, 6)
    context = context_for(model, 2)
    assert torch.equal(loaded(ids, context=context).logits, model(ids, context=context).logits)


@every_probe
@pytest.mark.parametrize("chunks", [(4, 1, 1, 3), (1,) * 9])
def test_decoded_in_uneven_chunks_it_equals_the_whole_row(name: str, chunks: tuple[int, ...]) -> None:
    text, changes = PROBES[name]
    model = decoder(text, **changes)
    ids, context = tokens(2, 9), context_for(decoder(text, **changes), 2)
    whole = model(ids, context=context).logits
    assert torch.allclose(in_chunks(model, ids, chunks, context=context), whole, atol=1e-10)


@pytest.mark.slow
def test_compiled_they_equal_themselves() -> None:
    run_without_shape_checks(CASES, at_least=-(-len(PROBES) // 2) + 2)


@pytest.mark.slow
def test_others_and_compiled_by_inductor_they_equal_themselves() -> None:
    run_without_shape_checks(CASES, at_least=len(PROBES) + len(PROBES) // 2, marked="slow")


def test_the_shared_table_is_one_parameter() -> None:
    text, changes = PROBES["T5 bias shared by layers"]
    shared, own = decoder(text, **changes), decoder(text)
    names = [name for name, _ in shared.named_parameters() if name.endswith("table") and "position" in name]
    assert len(names) == 1
    assert len([name for name, _ in own.named_parameters() if "position" in name]) == 2
    tables = [block.attention.held["position"][0].table for block in shared.layers]
    assert tables[0] is tables[1]


def test_without_gradients_every_layer_still_uses_its_own_table() -> None:
    model = decoder(PROBES["T5 bias shared by layers"][0])
    ids = tokens(2, 7)
    with torch.no_grad():
        without = model(ids).logits  # planned on another kernel than with gradients
    assert torch.allclose(without, model(ids).logits.detach(), atol=1e-10)


@pytest.mark.parametrize("mask", ["full", "~causal", "prefix"])
def test_a_mask_that_shows_later_keys_refuses_decoding_with_a_reason(mask: str) -> None:
    model = decoder(f"heads=2, mask={mask}")
    with pytest.raises(SpecError, match=rf"mask={mask} shows later keys, so it cannot be decoded step by step"):
        model(tokens(1, 3), state=model.start(1))
