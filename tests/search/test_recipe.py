"""Recipes: slots as texts, layers from them, and models of equal size."""

from __future__ import annotations

import pytest

from attentune.errors import SpecError
from attentune.models.build import build
from attentune.search.candidates import default_candidates
from attentune.search.matching import count_parameters, model_spec
from attentune.search.models import LanguageModels
from attentune.search.recipe import (
    Recipe,
    baseline_recipe,
    check_candidates,
    joined,
    run_spec,
)
from attentune.search.shape import Shape
from attentune.search.space import ModelSizes, Settings, StudySpec

MODELS = LanguageModels(65)
SPEC = StudySpec(baseline="heads=multi_head, position=learned, mask=causal")
CANDIDATES = [(slot, text) for slot, texts in default_candidates(64).items() for text in texts]


@pytest.fixture
def base() -> Recipe:
    return baseline_recipe(SPEC)


def test_the_baseline_is_the_attention_of_2017(base: Recipe) -> None:
    assert base.attention() == "added=learned, heads=4, mask=causal"
    spec = model_spec(base, SPEC, MODELS)
    assert (spec.position, spec.feed_forward.hidden_width(spec.width)) == ("learned", 512)
    assert baseline_recipe(StudySpec()).added_position() == "sinusoidal"


@pytest.mark.parametrize(("slot", "text"), CANDIDATES)
def test_every_default_candidate_has_the_baselines_parameters(base: Recipe, slot: str, text: str) -> None:
    target = count_parameters(model_spec(base, SPEC, MODELS), MODELS)
    if slot == "memory":  # goes on beyond the context, where learned positions end
        base = base.holding("position", "rotary")
    found = count_parameters(model_spec(base.holding(slot, text), SPEC, MODELS), MODELS)
    assert abs(found - target) <= 0.02 * target


def test_parameters_are_those_of_the_real_model(base: Recipe) -> None:
    spec = model_spec(base.holding("combine", "gate(per=element)"), SPEC, MODELS)
    assert count_parameters(spec, MODELS) == sum(parameter.numel() for parameter in build(spec, seed=0).parameters())


def test_another_shape_has_equal_parameters_too(base: Recipe) -> None:
    target = count_parameters(model_spec(base, SPEC, MODELS), MODELS)
    deeper = model_spec(base.replace(shape=Shape(width=96, depth=6, heads=4)), SPEC, MODELS)
    assert (deeper.width, deeper.depth) == (96, 6)
    assert abs(count_parameters(deeper, MODELS) - target) <= 0.02 * target


def test_what_cannot_be_made_equal_is_refused(base: Recipe) -> None:
    with pytest.raises(SpecError, match=r"no width from 512 down to 256 gives this attention the 804,096 parameters"):
        model_spec(base.replace(shape=Shape(width=512, depth=4, heads=4)), SPEC, MODELS)


def test_layers_alternate(base: Recipe) -> None:
    recipe = base.holding("mask", "causal & window(16); causal")
    assert [str(layer.attention.mask.kind) for layer in recipe.layers()] == ["and", "causal"]
    assert recipe.attention().count(";") == 1
    spec = model_spec(recipe, SPEC, MODELS)
    assert [spec.layer(index).attention.mask.kind for index in range(4)] == ["and", "causal"] * 2


@pytest.mark.parametrize(
    ("text", "added", "inside"),
    [
        ("none", "none", None),
        ("learned", "learned", None),
        ("rotary", "none", "rotary"),
        ("rotary + learned", "learned", "rotary"),
        ("t5(buckets=16)", "none", "t5"),
    ],
)
def test_positions_are_added_or_inside(base: Recipe, text: str, added: str, inside: str | None) -> None:
    recipe = base.holding("position", text)
    position = recipe.layers()[0].attention.position
    assert recipe.added_position() == added
    assert (None if position is None else position.kind) == inside


def test_two_positions_inside_are_refused(base: Recipe) -> None:
    with pytest.raises(SpecError, match="one value beside what is added"):
        base.holding("position", "rotary + t5").layers()


@pytest.mark.parametrize(
    ("text", "heads", "printed"),
    [("grouped", 4, "4/2"), ("multi_query", 4, "4/1"), ("multi_head", 2, "2"), ("8/2", 4, "8/2")],
)
def test_heads_fit_the_shape(base: Recipe, text: str, heads: int, printed: str) -> None:
    recipe = base.holding("heads", text).replace(shape=Shape(width=128, depth=4, heads=heads))
    assert recipe.attention().startswith(f"added=learned, heads={printed}, mask")


def test_emptying_a_slot_is_as_if_it_was_never_filled(base: Recipe) -> None:
    filled = base.holding("scores", "qk_norm")
    assert filled.changed_slots(base) == ("scores",)
    assert filled.holding("scores", "none") == base
    assert hash(filled.holding("scores", "none")) == hash(base)


def test_joined_keeps_the_order_of_the_candidates() -> None:
    order = ("qk_norm", "residual_scores", "soft_cap(30.0)")
    assert joined("scores", "soft_cap(30.0)", "qk_norm", order) == "qk_norm + soft_cap(30.0)"
    assert joined("scores", "none", "qk_norm", order) == "qk_norm"
    assert joined("scores", "qk_norm", "qk_norm", order) == "qk_norm"


def test_a_run_follows_its_settings(base: Recipe) -> None:
    recipe = base.replace(
        settings=Settings(learning_rate=4e-3, warmup=0.1, schedule="wsd", clip="agc", clip_limit=0.02)
    )
    run = run_spec(recipe, SPEC, steps=500, seed=7)
    assert (run.steps, run.seed, run.schedule.warmup, run.schedule.name) == (500, 7, 50, "wsd")
    assert (run.optimizer.learning_rate, run.clip.name, run.clip.limit) == (4e-3, "agc", 0.02)
    assert run.evaluate_every == 50
    assert run.checkpoint_every % run.evaluate_every == 0


def test_flat_settings_name_everything() -> None:
    flat = baseline_recipe(StudySpec(model=ModelSizes(width=64, depth=2, heads=2))).flat()
    assert {"attention", "learning_rate", "optimizer", "schedule", "width", "depth", "heads"} <= set(flat)
    assert (flat["width"], flat["depth"], flat["heads"]) == (64, 2, 2)


def test_candidates_may_use_every_form() -> None:
    check_candidates(StudySpec())
    check_candidates(
        StudySpec(
            candidates={
                "position": ("none", "rotary + learned", "sinusoidal"),
                "heads": ("grouped", "4/2", "latent(4, rank=16)"),
                "mask": ("causal & window(16); causal",),
                "scores": ("qk_norm + soft_cap(30)",),
            }
        )
    )


@pytest.mark.parametrize(
    ("slot", "text", "message"),
    [
        ("position", "rotry", "candidates.position: position=rotry is unknown; did you mean 'rotary'"),
        ("scores", "soft_cap", "candidates.scores: soft_cap.cap is required"),
        ("mask", "causal; windw(4)", "did you mean 'window'"),
        ("combine", "gate(per=row)", "candidates.combine: gate.per"),
        ("normalizer", "softmax(", "candidates.normalizer: cannot read"),
    ],
)
def test_a_misspelt_candidate_is_an_error_before_anything_is_trained(slot: str, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_candidates(StudySpec(candidates={slot: (text,)}))
    assert message in str(caught.value)
