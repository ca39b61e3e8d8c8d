from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.layers.attention import Attention
from attentune.mechanisms import _discovery, attention, function, load_plugin, registry
from attentune.spec.attention import AttentionSpec
from attentune.spec.codec import from_json, to_json
from attentune.spec.registry import Registry
from kernels.attending import attend, operands, sizes

PLUGIN = """
from attentune.mechanisms import function


@function.register("first_column")
def first_column(q, k):
    return q[..., 0] * k[..., 0]
"""


@pytest.fixture(autouse=True)
def _functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function._functions, "held", dict(function._functions.held))
    function.register("manhattan")(manhattan)


def manhattan(q: Tensor, k: Tensor) -> Tensor:
    return -(q - k).abs().sum(-1)


def test_by_hand() -> None:
    spec = attention("heads=1, similarity=function(manhattan)")
    q, k = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]]), torch.tensor([[[[1.0, 2.0], [-1.0, 5.0], [0.0, 1.0]]]])
    s = spec.similarity.scores({}, sizes(spec, head_width=2), q, k)
    assert s.tolist() == [[[[0.0, -5.0, -2.0], [-3.0, -6.0, -1.0]]]]


def test_a_function_of_the_tokens_themselves() -> None:
    layer = Attention(attention("heads=single(projected=false), similarity=function(manhattan)"), width=3)
    x = torch.randn(1, 4, 3)
    weights = torch.stack([torch.stack([-(x[0, i] - x[0, j]).abs().sum() for j in range(4)]) for i in range(4)])
    assert torch.allclose(layer(x, Layout.plain(4)).y[0], weights.softmax(-1) @ x[0], atol=1e-6)


def test_an_inner_product_of_ones_own_is_the_dot_product() -> None:
    function.register("mine")(lambda q, k: (q * k).sum(-1))
    q, k, v = operands(sizes(attention("heads=4/2")), 5)
    outputs = [
        attend(f"heads=4/2, similarity={text}, mask=causal", q, k, v).output for text in ("function(mine)", "dot")
    ]
    assert torch.allclose(*outputs, atol=1e-12)
    ours, theirs = (torch.autograd.grad(output.square().sum(), [q, k, v]) for output in outputs)
    for gradient, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(gradient, expected, atol=1e-12)


def test_a_spec_keeps_the_name_alone() -> None:
    spec = attention("heads=1, similarity=function(manhattan)")
    assert str(spec) == "heads=1, similarity=function(manhattan)"
    assert from_json(AttentionSpec, to_json(spec), registry) == spec
    assert '"name": "manhattan"' in to_json(spec)


def test_unknown_and_taken_names_are_refused() -> None:
    with pytest.raises(SpecError, match=r"function.name: no function is registered as 'manhatan'; did you mean 'manh"):
        attention("heads=1, similarity=function(manhatan)")
    with pytest.raises(SpecError, match=r"function 'manhattan' is taken by .*manhattan"):
        function.register("manhattan")(lambda q, k: q @ k)
    with pytest.raises(SpecError, match="a function is registered under a name, got ''"):
        function.register("")


def test_a_plugin_may_hold_functions_alone(tmp_path: Path) -> None:
    file = tmp_path / "columns.py"
    file.write_text(PLUGIN)
    assert load_plugin(file, Registry()) == []
    spec = attention("heads=1, similarity=function(first_column)")
    s = spec.similarity.scores({}, sizes(spec), torch.ones(1, 1, 1, 4), torch.full((1, 1, 2, 4), 3.0))
    assert s.tolist() == [[[[3.0, 3.0]]]]


def test_an_entry_point_may_name_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "halved"

        def __init__(self, given: object) -> None:
            self.given = given

        def load(self) -> object:
            return self.given

    halved = function.register("halved")(lambda q, k: (q * k).sum(-1) / 2)
    monkeypatch.setattr(_discovery, "entry_points", lambda group: [Entry(halved)])
    assert list(_discovery.discover([], "none")) == []
    assert attention("heads=1, similarity=function(halved)").similarity.kind == "function"
    monkeypatch.setattr(_discovery, "entry_points", lambda group: [Entry(dict)])
    with pytest.raises(SpecError, match="entry point 'halved' names the class dict, which is no mechanism"):
        _discovery.discover([], "none")


def test_what_it_returns_is_checked() -> None:
    q, k, v = operands(sizes(attention("heads=2")), 3)
    for name, wrong, message in (
        (
            "unsummed",
            lambda q, k: q * k,
            r"one score for each query and key: \[2, 2, 3, 3\] from .*, got \[2, 2, 3, 3, 4\]",
        ),
        ("narrow", lambda q, k: (q * k).sum(-1).float(), "must return a tensor of torch.float64 as it gets"),
        ("number", lambda q, k: 1.0, "as it gets, got float"),
    ):
        function.register(name)(wrong)  # type: ignore[arg-type]
        with pytest.raises(SpecError, match=message):
            attend(f"heads=2, similarity=function({name})", q, k, v)


def test_rotary_is_refused_because_nothing_says_that_it_is_an_inner_product() -> None:
    with pytest.raises(SpecError, match="makes relative positions only of what depends on their lengths"):
        attention("heads=1, similarity=function(manhattan), position=rotary")
