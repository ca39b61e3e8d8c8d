"""How weights from elsewhere may change: frozen parts, slower layers, low-rank adapters and their merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from attentune.errors import SpecError, TrainingError
from attentune.layers.low_rank import LowRank, add_adapters, merge_adapters
from attentune.mechanisms import layer
from attentune.models.build import build, build_encoder_decoder
from attentune.models.checkpoint import weights_of
from attentune.spec.model import ModelSpec
from attentune.spec.run import OptimizerSpec
from attentune.spec.start import AdapterSpec, StartSpec, read_parts
from attentune.training.adapting import adapt
from attentune.training.optimizers import build_optimizer

IDS = torch.arange(12).view(2, 6)
SPEC = ModelSpec(
    vocab_size=13, width=8, depth=3, context=8, layers=(layer("heads=2, position=t5, mask=causal"),), bias=True
)
ENCODER = SPEC.replace(layers=(layer("heads=2"),))
BOTH = SPEC.replace(layers=(layer("heads=2, mask=causal, cross=attention(heads=2)"),), encoder=ENCODER)


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def everything(model: nn.Module) -> frozenset[str]:
    return frozenset(weights_of(model))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("embedding", ["embedding.table"]),
        ("layers 1", ["layers.1.feed_forward.up"]),
        ("layers 0-1, norm", ["layers.0.attention_norm.gain", "layers.1.feed_forward.up", "norm.gain"]),
        ("layers", ["layers.0.feed_forward.up", "layers.2.feed_forward.up"]),
    ],
)
def test_parts_of_a_model_by_their_names(text: str, holds: list[str]) -> None:
    names = ["embedding.table", "norm.gain", "layers.0.attention_norm.gain"]
    names += [f"layers.{number}.feed_forward.up" for number in range(3)]
    found = {name for name in names if any(part.holds("trunk", name) for part in read_parts(text))}
    wanted = set(holds) | {name for name in names if text == "layers" and name.startswith("layers")}
    if text == "layers 0-1, norm":
        wanted |= {"layers.0.feed_forward.up"}
    assert found == wanted


@pytest.mark.parametrize("text", ["layer 1", "layers 3-1", "head", "embedding 2", "layers one", "embedding,,norm"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"freeze (names|counts)"):
        StartSpec(freeze=text)


def test_frozen_parts_do_not_learn() -> None:
    model = build(SPEC, seed=0)
    adapt(model, everything(model), StartSpec(path="x", freeze="embedding, layers 0-1"))
    names = frozen(model)
    assert "embedding.table" in names and not any(name.startswith(("layers.2", "norm")) for name in names)
    assert {name for name, _ in model.named_parameters() if name.startswith(("layers.0.", "layers.1."))} < names
    optimizer = build_optimizer(model, OptimizerSpec(learning_rate=1e-2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(IDS).logits.square().sum().backward()
    optimizer.step(1.0)
    same = {name for name, parameter in model.named_parameters() if parameter.equal(before[name])}
    assert same == names


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"freeze='layers 1-3': the layers of this model are 0 to 2"):
        adapt(model := build(SPEC, seed=0), everything(model), StartSpec(path="x", freeze="layers 1-3"))


def test_one_stack_of_two_is_frozen_and_only_what_came_from_the_folder() -> None:
    model = build_encoder_decoder(BOTH, seed=0)
    adapt(model, everything(model), StartSpec(path="x", freeze="encoder, decoder layers 0"))
    names = frozen(model)
    assert all(name.startswith(("encoder.", "decoder.layers.0.")) for name in names)
    assert {name for name, _ in model.named_parameters() if name.startswith("encoder.")} < names
    other = build_encoder_decoder(BOTH, seed=0)
    filled = frozenset(name for name in weights_of(other) if name.startswith("encoder."))
    adapt(other, filled, StartSpec(path="x", freeze="layers"))
    assert not any(name.startswith("decoder.") for name in frozen(other))
    with pytest.raises(TrainingError, match="freeze='decoder' names nothing of this model that came from x"):
        adapt(other, filled, StartSpec(path="x", freeze="decoder"))


def test_nothing_that_learns_is_refused() -> None:
    model = build(SPEC, seed=0)
    with pytest.raises(TrainingError, match="everything is frozen"):
        adapt(model, everything(model), StartSpec(path="x", freeze="decoder"))


@pytest.mark.parametrize("name", ["adamw", "muon", "adagrad", "adafactor"])
def test_deeper_layers_learn_more_slowly(name: str) -> None:
    model = build(SPEC, seed=0)
    adapt(model, everything(model), StartSpec(path="x", layer_decay=0.5))
    expected = {"embedding.table": 2**-4, "layers.0.feed_forward.up": 2**-3, "layers.2.feed_forward.up": 0.5}
    expected["norm.gain"] = 1.0
    optimizer = build_optimizer(model, OptimizerSpec(name=name, learning_rate=1e-2, weight_decay=0.1))  # type: ignore[arg-type]
    model(IDS).logits.square().sum().backward()
    optimizer.step(0.5)
    ratio = 0.15 if name == "muon" else 1.0
    rates = {
        id(parameter): (group["lr"], peak)
        for part, peak in optimizer.parts
        for group in part.param_groups
        for parameter in group["params"]
    }
    for own, share in expected.items():
        rate, peak = rates[id(model.get_parameter(own))]
        assert peak in (pytest.approx(1e-2), pytest.approx(1e-2 * ratio))
        assert rate == pytest.approx(peak * 0.5 * share)


def test_decay_before_a_step_is_slower_too() -> None:
    model = build(SPEC, seed=0)
    adapt(model, everything(model), StartSpec(path="x", layer_decay=0.5))
    optimizer = build_optimizer(model, OptimizerSpec(name="adagrad", learning_rate=1e-2, weight_decay=1.0))
    weight = model.get_parameter("layers.0.feed_forward.up")
    before = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    torch.testing.assert_close(weight.detach(), before * (1 - 1e-2 / 8))


def test_adapters_begin_with_the_model_as_it_was_and_are_merged_into_a_plain_one() -> None:
    model, plain = build(SPEC, seed=0).eval(), build(SPEC, seed=0).eval()
    names = list(weights_of(model))
    adapt(model, everything(model), StartSpec(path="x", adapters=AdapterSpec(rank=2, alpha=6.0, where="all")))
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=0, atol=0)
    adapters = [module for module in model.modules() if isinstance(module, LowRank)]
    assert len(adapters) == 3 * (2 + 2)  # qkv and out, up and down
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == 2 * len(adapters) and all(name.endswith((".a", ".b")) for name in learning)
    optimizer = build_optimizer(model, OptimizerSpec(learning_rate=1e-2))
    for _ in range(2):
        model(IDS).logits.square().sum().backward()
        optimizer.step(1.0)
        optimizer.zero_grad()
    adapted = model(IDS).logits.detach()
    assert (adapted - plain(IDS).logits).abs().max() > 1e-2
    by_hand = plain.get_parameter("layers.0.feed_forward.up") + 3.0 * adapters_of(model) @ lower_of(model)
    merge_adapters(model)
    assert sorted(weights_of(model)) == sorted(names)
    torch.testing.assert_close(model(IDS).logits, adapted)
    torch.testing.assert_close(model.get_parameter("layers.0.feed_forward.up"), by_hand)
    merge_adapters(model)  # nothing is left to merge
    fresh = build(SPEC, seed=1).eval()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(IDS).logits, adapted)


def adapters_of(model: nn.Module) -> torch.Tensor:
    return model.get_parameter("layers.0.feed_forward.parametrizations.up.0.b")


def lower_of(model: nn.Module) -> torch.Tensor:
    return model.get_parameter("layers.0.feed_forward.parametrizations.up.0.a")


def test_a_model_without_attention_has_no_place_for_adapters(tmp_path: Path) -> None:
    model = build(SPEC.replace(layers=(layer("branches=lstm"),)), seed=0)
    assert add_adapters(model, rank=2, alpha=2.0, where="attention") == 0
    with pytest.raises(TrainingError, match="adapters stand on the matrices of attentions"):
        adapt(model, everything(model), StartSpec(path=str(tmp_path), adapters=AdapterSpec(rank=2)))
