"""Mixers and halting against code written from their papers alone: outputs, and gradients by that code's differences.

What is called `theirs` reads no line of ours; it sees one sequence at a time, as numpy arrays. Of what we call by
another name, or lay out in another order, each test says how it is carried over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentune.kernels import Layout
from attentune.layers.halting import Halting, Walk
from attentune.mechanisms.gated_delta import GatedDelta
from attentune.mechanisms.linear_attention import LinearAttention, random_directions
from attentune.mechanisms.retention import Retention
from attentune.spec.halting import HaltingSpec
from attentune.spec.slots import Mixer
from mechanisms.agreeing import Arrays, Given, Ours, assert_agree, called, split
from mechanisms.mixing import begin, dims, random_parameters
from oracles import halting, linear_mixers
from oracles.arrays import Array, linear, merge_heads, rms_norm, sigmoid, split_heads


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
        weights = split(given, "", 8, 8)
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
        qkv = np.sum([row[tap : tap + len(x)] * given["conv"][:, tap] for tap in range(conv)], axis=0)
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
