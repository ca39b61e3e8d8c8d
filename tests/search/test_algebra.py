"""The study that looks at the whole algebra: its candidates are real, and cover what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attentune.mechanisms import registry
from attentune.search.matching import count_parameters, model_spec
from attentune.search.models import LanguageModels
from attentune.search.recipe import baseline_recipe
from attentune.search.space import read_study
from attentune.spec.slots import SLOTS

MODELS = LanguageModels(65)
STUDY = read_study(Path(__file__).parents[2] / "configs" / "algebra.toml")
CANDIDATES = [(slot, text) for slot, texts in STUDY.space().items() for text in texts]


def test_every_slot_is_searched() -> None:
    assert set(STUDY.space()) == set(SLOTS)
    named = {(slot, word) for slot, text in CANDIDATES for word in re.findall(r"[a-z]\w*", text)}
    assert len({(value.slot, value.model_fields["kind"].default) for value in registry} & named) > 55


@pytest.mark.parametrize(("slot", "text"), CANDIDATES)
def test_every_candidate_has_the_baselines_parameters(slot: str, text: str) -> None:
    base = baseline_recipe(STUDY)
    target = count_parameters(model_spec(base, STUDY, MODELS), MODELS)
    if slot == "memory":  # goes on beyond the context, where learned positions end
        base = base.holding("position", "rotary")
    found = count_parameters(model_spec(base.holding(slot, text), STUDY, MODELS), MODELS)
    assert abs(found - target) <= STUDY.tolerance * target
