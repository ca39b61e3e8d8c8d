"""The spec of a study: budgets, shapes, candidates, and the way to and from TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from attentune.errors import SpecError, StudyError
from attentune.search.candidates import ADAPTIVITY, LONG_RANGE, default_candidates
from attentune.search.space import (
    Budget,
    ObjectiveSpec,
    Shape,
    StudySpec,
    TuningSpace,
    parse_budget,
    parse_shape,
    read_study,
    study_from_data,
    study_text,
)
from attentune.spec.slots import SLOTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", Budget(seconds=90)),
        ("10m", Budget(seconds=600)),
        ("1.5h", Budget(seconds=5400)),
        ("50M-tokens", Budget(tokens=50_000_000)),
        ("500k-tokens", Budget(tokens=500_000)),
        ("7-tokens", Budget(tokens=7)),
    ],
)
def test_budgets(text: str, value: Budget) -> None:
    assert parse_budget(text) == value


@pytest.mark.parametrize("text", ["10", "m", "0m", "10 minutes", "-5m", "50M"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(SpecError, match="write a time such as 10m or tokens such as 50M-tokens"):
        StudySpec(budget=text)


def test_shapes() -> None:
    assert parse_shape(" 128x4/2 ") == Shape(width=128, depth=4, heads=2)
    assert str(Shape(width=128, depth=4, heads=2)) == "128x4/2"
    with pytest.raises(SpecError, match="width x depth / heads"):
        TuningSpace(shapes=("128x4",))


def test_toml_round_trip() -> None:
    spec = StudySpec(
        candidates={"position": ("rotary", "rotary + learned"), "mask": ("causal & window(8); causal",)},
        objective=ObjectiveSpec(max_latency_ms=3.0, trade={"parameters": 0.01}),
        seeds=(3, 4, 5),
        steps=200,
        tuning=TuningSpace(shapes=("96x3/4",), optimizers=("adamw", "muon")),
    )
    assert study_from_data(tomllib.loads(study_text(spec))) == spec
    assert study_from_data(tomllib.loads(study_text(StudySpec()))) == StudySpec()


@pytest.mark.parametrize("name", ["demo.toml", "tinyshakespeare_study.toml"])
def test_the_shipped_studies_can_be_read(name: str) -> None:
    spec = read_study(CONFIGS / name)
    assert len(spec.pairs) >= 3
    assert "rotary" in spec.space()["position"]


def test_mistakes_name_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    with pytest.raises(StudyError, match=r"cannot read the study .*No such file"):
        read_study(path)
    path.write_text("batch = 0")
    with pytest.raises(SpecError, match=r"study.toml: StudySpec.batch: .*greater than or equal to 1, got 0"):
        read_study(path)
    path.write_text("bacth = 4")
    with pytest.raises(SpecError, match="did you mean 'batch'"):
        read_study(path)
    path.write_text("[candidates]\npositoin = ['rotary']")
    with pytest.raises(SpecError, match=r"candidates.positoin is no slot; did you mean 'position'"):
        read_study(path)


def test_two_seeds_are_not_enough() -> None:
    with pytest.raises(SpecError, match="at least 3 are needed to tell a gain from noise, got 2"):
        StudySpec(seeds=(0, 1))
    with pytest.raises(SpecError, match="seeds must differ"):
        StudySpec(seeds=(0, 1, 1))
    with pytest.raises(SpecError, match="folds must be 0 or at least 3"):
        StudySpec(folds=2)
    assert StudySpec(folds=4).pairs == (0, 1, 2, 3)


def test_learning_rates_need_a_range() -> None:
    with pytest.raises(SpecError, match=r"learning_rates.muon needs a range"):
        TuningSpace(optimizers=("muon",), learning_rates={"adamw": (1e-3, 1e-2)})


def test_every_slot_of_the_default_space_belongs_to_a_stage() -> None:
    assert set(default_candidates(64)) <= {*ADAPTIVITY, *LONG_RANGE}
    assert {*ADAPTIVITY, *LONG_RANGE} == set(SLOTS)
    assert list(StudySpec().space()) == [slot for slot in (*ADAPTIVITY, *LONG_RANGE) if slot in default_candidates(64)]


def test_the_finals_may_not_use_the_seed_of_the_search() -> None:
    with pytest.raises(SpecError, match=r"seeds: 1003 is the seed of the search"):
        StudySpec(seed=3, seeds=(1, 2, 1003))
    assert StudySpec(seed=4, seeds=(1, 2, 1003)).seeds == (1, 2, 1003)
