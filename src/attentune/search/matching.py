"""The model of a recipe, with as many parameters as the baseline has.

The hidden width of the feed-forward network makes up for what an attention adds or saves and, where that would starve
it, the model becomes narrower.
"""

from __future__ import annotations

from functools import lru_cache

from attentune.errors import SpecError
from attentune.search.models import Models
from attentune.search.recipe import Recipe, baseline_recipe
from attentune.search.space import StudySpec
from attentune.spec.model import FeedForwardSpec, ModelSpec

LEAST_HIDDEN = 1.5  # times the width: a feed-forward network narrower than this is no longer the same model


def model_spec(recipe: Recipe, spec: StudySpec, models: Models) -> ModelSpec:
    """The model of `recipe`, its parameters within `spec.tolerance` of the untuned baseline's.

    Raises:
        SpecError: the slots do not fit, or no width and hidden width meet the number of parameters.
    """
    base = baseline_recipe(spec, models.stack)
    plain = _model(base, spec, models, base.shape.width, spec.model.hidden)
    if recipe.slots == base.slots and recipe.shape == base.shape:
        return plain
    return _matched(recipe, spec, models, count_parameters(plain, models))


def _matched(recipe: Recipe, spec: StudySpec, models: Models, target: int) -> ModelSpec:
    narrowest = recipe.shape.width // 2
    step = 2 * recipe.shape.heads  # an even number of columns in each head, which rotary positions need
    for width in range(recipe.shape.width, narrowest, -step):
        first = count_parameters(_model(recipe, spec, models, width, 1), models)
        slope = count_parameters(_model(recipe, spec, models, width, 2), models) - first
        hidden = 1 + round((target - first) / slope)
        if hidden < LEAST_HIDDEN * width:
            continue
        found = _model(recipe, spec, models, width, hidden)
        if abs(count_parameters(found, models) - target) <= spec.tolerance * target:
            return found
    raise SpecError(
        f"no width from {recipe.shape.width} down to {narrowest} gives this attention the {target:,} parameters of the "
        f"baseline within {spec.tolerance:.0%}; leave the candidate out, or raise the tolerance"
    )


def _model(recipe: Recipe, spec: StudySpec, models: Models, width: int, hidden: int | None) -> ModelSpec:
    sizes, depth = spec.model, recipe.shape.depth
    # Beside sinusoids, whose size is 1, embeddings of the usual small size would not be seen; encoder and decoder may
    # share theirs.
    drowned = "sinusoidal" in {recipe.added_position(site) for site in ("", "encoder.")}

    def stack(site: str, depth: int, encoder: ModelSpec | None) -> ModelSpec:
        return ModelSpec(
            vocab_size=1,
            width=width,
            depth=depth,
            context=spec.context,
            layers=recipe.layers(site),
            feed_forward=FeedForwardSpec(name=sizes.feed_forward, hidden=hidden),
            position=recipe.added_position(site),
            norm=sizes.norm,
            norm_placement=sizes.norm_placement,
            embedding_norm=sizes.embedding_norm,
            bias=sizes.bias,
            tie_embeddings=sizes.tie_embeddings,
            ngrams=sizes.ngrams if not encoder else None,
            scale_embeddings=sizes.scale_embeddings or drowned,
            logit_factor=1.0 if drowned and sizes.logit_factor is None else sizes.logit_factor,
            dropout=sizes.dropout,
            attention_dropout=sizes.attention_dropout,
            encoder=encoder,
        )

    encoder = stack("encoder.", sizes.encoder_depth or depth, None) if recipe.has_encoder else None
    return models.complete(stack("", depth, encoder))


@lru_cache(maxsize=512)
def count_parameters(spec: ModelSpec, models: Models) -> int:
    """Parameters of a model, tied ones once, without filling any."""
    return models.count(spec)
