from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor

from attentune.errors import SpecError
from attentune.mechanisms import attention, load_plugin, predicate
from attentune.spec.attention import AttentionSpec
from attentune.spec.codec import from_json, to_json
from attentune.spec.registry import Registry
from kernels.attending import grid

PLUGIN = """
from attentune.mechanisms import predicate


@predicate.register("same_parity")
def same_parity(query, key):
    return (query + key) % 2 == 0
"""


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicate._rules, "held", dict(predicate._rules.held))
    predicate.register("comb")(comb)


def comb(query: Tensor, key: Tensor) -> Tensor:
    return (query - key) % 3 == 0


def test_a_rule_is_asked_about_positions() -> None:
    assert grid("predicate(comb)", 4) == ["x..x", ".x..", "..x.", "x..x"]
    assert grid("causal & predicate(comb)", 4) == ["x...", ".x..", "..x.", "x..x"]
    assert attention("heads=1, mask=predicate(comb)").mask.lookahead is None
    assert attention("heads=1, mask=causal & predicate(comb)").mask.lookahead == 0


def test_a_spec_keeps_the_name_alone() -> None:
    spec = attention("heads=1, mask=causal & ~predicate(name=comb)")
    assert str(spec) == "heads=1, mask=causal & ~predicate(comb)"
    written = to_json(spec)
    assert {"kind": "predicate", "name": "comb"} in [one.get("mask") for one in json.loads(written)["mask"]["masks"]]
    from attentune.mechanisms import registry

    assert from_json(AttentionSpec, written, registry) == spec


def test_unknown_names_are_refused_with_near_ones() -> None:
    with pytest.raises(SpecError, match=r"predicate.name: no rule is registered as 'comp'; did you mean 'comb'\?"):
        attention("heads=1, mask=predicate(comp)")
    predicate._rules.held.clear()
    with pytest.raises(
        SpecError, match=r"'comb'; none is registered \(register it first, or name its file as plugin\)"
    ):
        attention("heads=1, mask=predicate(comb)")


def test_a_name_belongs_to_one_rule() -> None:
    predicate.register("comb")(comb)  # the same again, as when a notebook's cell runs twice
    with pytest.raises(SpecError, match=r"predicate 'comb' is taken by .*comb"):
        predicate.register("comb")(lambda query, key: query == key)
    with pytest.raises(SpecError, match="under a name, got ''"):
        predicate.register("")


def test_a_plugin_may_hold_rules_alone(tmp_path: Path) -> None:
    file = tmp_path / "parity.py"
    file.write_text(PLUGIN)
    assert load_plugin(file, Registry()) == []
    assert grid("predicate(same_parity)", 3) == ["x.x", ".x.", "x.x"]
    assert load_plugin(file, Registry()) == []


def test_a_rule_must_answer_with_booleans() -> None:
    predicate.register("distance")(lambda query, key: query - key)
    with pytest.raises(SpecError, match=r"predicate 'distance' must return a tensor of booleans, got torch.int64"):
        grid("predicate(distance)", 3)
    predicate.register("constant")(lambda query, key: True)  # type: ignore[arg-type,return-value]
    with pytest.raises(SpecError, match=r"must return a tensor of booleans, got bool"):
        grid("predicate(constant)", 3)


def test_cross_attention_has_no_common_positions() -> None:
    with pytest.raises(SpecError, match="mask=predicate has no meaning"):
        attention("heads=1, mask=predicate(comb)").check_cross()
