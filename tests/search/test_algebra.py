"""The study that looks at the whole algebra: its candidates are real, and none is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attentune.mechanisms import registry
from attentune.search.recipe import baseline_recipe, count_parameters, model_spec
from attentune.search.space import read_study

STUDY = read_study(Path(__file__).parents[2] / "configs" / "algebra.toml")
CANDIDATES = [(slot, text) for slot, texts in STUDY.space().items() for text in texts]
# Not for a causal language model, or nothing without what a user brings: a rule of one's own, a tree, a prefix.
ELSEWHERE = {"full", "prefix", "tree", "predicate", "function", "and", "or", "not"}
BASELINE = {"multi_head", "scaled_dot", "softmax", "causal"}


def test_no_mechanism_is_forgotten() -> None:
    named = {(slot, word) for slot, text in CANDIDATES for word in re.findall(r"[a-z]\w*", text)}
    known = {(value.slot, value.model_fields["kind"].default) for value in registry}
    assert len(known) > 60
    assert {kind for slot, kind in known - named} == BASELINE - {"causal"} | ELSEWHERE & {kind for _, kind in known}


@pytest.mark.parametrize(("slot", "text"), CANDIDATES)
def test_every_candidate_has_the_baselines_parameters(slot: str, text: str) -> None:
    base = baseline_recipe(STUDY)
    target = count_parameters(model_spec(base, STUDY, vocab_size=65))
    if slot == "memory":  # goes on beyond the context, where learned positions end
        base = base.holding("position", "rotary")
    found = count_parameters(model_spec(base.holding(slot, text), STUDY, vocab_size=65))
    assert abs(found - target) <= STUDY.tolerance * target
