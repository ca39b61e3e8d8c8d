"""A recipe: one attention, slot by slot, with the settings and the shape that it is trained with.

What a study compares are recipes. `model_spec` turns one into a model with as many parameters as the baseline has: the
hidden width of the feed-forward network makes up for what an attention adds or saves and, where that would starve it,
the model becomes narrower.
"""

from __future__ import annotations

import ast
import math
from functools import lru_cache

import torch

from attentune.errors import SpecError
from attentune.mechanisms import layer, registry
from attentune.models.decoder import Decoder
from attentune.search.result import Scalar
from attentune.search.space import ADDED, ModelSizes, Settings, Shape, StudySpec
from attentune.spec.codec import mechanism_from_data
from attentune.spec.model import FeedForwardSpec, LayerSpec, ModelSpec
from attentune.spec.run import ClipSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.spec.slots import SLOTS
from attentune.spec.text import SEVERAL, split
from attentune.spec.value import Frozen

INTERIM = 60  # an evaluation on the way uses one token for so many trained on: all of them cost about 5 % of the time
LEAST_HIDDEN = 1.5  # times the width: a feed-forward network narrower than this is no longer the same model


class Recipe(Frozen):
    """The values of the slots as texts (see `attentune.search.space` for their form), settings and shape."""

    slots: tuple[tuple[str, str], ...]  # in the order of the dataflow; what is missing is neutral
    settings: Settings
    shape: Shape

    def value(self, slot: str) -> str:
        """The text of `slot`, `none` where nothing was said."""
        return dict(self.slots).get(slot, "none")

    def holding(self, slot: str, text: str) -> Recipe:
        """This recipe with `text` in `slot`; `none` empties it."""
        held = {**dict(self.slots), slot: text}
        ordered = tuple((name, held[name]) for name in SLOTS if held.get(name, "none") != "none")
        return self.replace(slots=ordered)

    def changed_slots(self, other: Recipe) -> tuple[str, ...]:
        """The slots in which the two differ."""
        return tuple(name for name in SLOTS if self.value(name) != other.value(name))

    @property
    def added_position(self) -> str:
        """What is added to the embeddings: `none`, `sinusoidal` or `learned`."""
        return next((part for part in _sum(self.value("position")) if part in ADDED), "none")

    def layers(self) -> tuple[LayerSpec, ...]:
        """The pattern of layers; SpecError where a text does not parse or the slots do not fit each other."""
        held = {slot: [part.strip() for part in text.split(";")] for slot, text in self.slots}
        held["position"] = [_inside(self.value("position"))]
        held["heads"] = [_with_numbers(text, self.shape.heads) for text in held.get("heads", ["multi_head"])]
        length = math.lcm(*(len(parts) for parts in held.values()))
        texts = (
            ", ".join(f"{slot}={parts[index % len(parts)]}" for slot, parts in held.items() if parts != ["none"])
            for index in range(length)
        )
        return tuple(layer(text) for text in texts)

    def attention(self) -> str:
        """The attention in its text form, with what is added to the embeddings first where there is something."""
        added = self.added_position
        text = "; ".join(str(one) for one in self.layers())
        return text if added == "none" else f"added={added}, {text}"

    def flat(self) -> dict[str, Scalar]:
        """Every setting under its own name, for ledger and report."""
        settings = self.settings.model_dump()
        return {"attention": self.attention(), **settings, **self.shape.model_dump()}


def baseline_recipe(spec: StudySpec) -> Recipe:
    """The untuned baseline of a study."""
    found = {slot: ast.unparse(node) for slot, node in split(spec.baseline, tuple(SLOTS)).items()}
    recipe = Recipe(slots=(), settings=spec.settings, shape=spec.model.shape)
    for slot, text in found.items():
        recipe = recipe.holding(slot, text)
    return recipe


def check_candidates(spec: StudySpec) -> None:
    """Raises where a candidate is no value of its slot. Whether it fits the other slots, its own trial will tell.

    Raises:
        SpecError: naming the slot and the candidate, with near names.
    """
    for slot, texts in spec.space().items():
        for text in texts:
            for piece in text.split(";"):
                value = _inside(piece) if slot == "position" else piece.strip()
                if slot == "heads":
                    value = _with_numbers(value, spec.model.heads)
                try:
                    mechanism_from_data(slot, value, registry)
                except SpecError as error:
                    raise SpecError(f"candidates.{slot}: {error}") from None


def joined(slot: str, held: str, added: str, order: tuple[str, ...]) -> str:
    """The values of two texts of a slot that holds several, in the `order` in which the candidates are listed."""
    parts = [*_sum(held), *_sum(added)]
    known = [part for one in order for part in _sum(one)]
    return " + ".join(sorted(dict.fromkeys(parts), key=lambda part: known.index(part) if part in known else -1))


def holds_several(slot: str) -> bool:
    """Whether a candidate of `slot` may stand beside another one."""
    return slot in SEVERAL


def run_spec(recipe: Recipe, spec: StudySpec, *, steps: int, seed: int) -> RunSpec:
    """The training run of `recipe` over `steps` steps, evaluated about ten times."""
    settings = recipe.settings
    every = max(1, -(-steps // 10))
    return RunSpec(
        data=spec.data,
        context=spec.context,
        batch=spec.batch,
        steps=steps,
        optimizer=OptimizerSpec(
            name=settings.optimizer, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        ),
        schedule=ScheduleSpec(name=settings.schedule, warmup=round(settings.warmup * steps), floor=settings.floor),
        clip=ClipSpec(name=settings.clip, limit=settings.clip_limit),
        regularizer=spec.regularizer,
        precision=settings.precision,
        seed=seed,
        evaluate_every=every,
        evaluate_tokens=max(8 * spec.context, min(32_768, steps * spec.tokens_per_step // INTERIM)),
        checkpoint_every=every * max(1, 250 // every),
        diagnose_every=0,
    )


def model_spec(recipe: Recipe, spec: StudySpec, *, vocab_size: int) -> ModelSpec:
    """The model of `recipe`, its parameters within `spec.tolerance` of the untuned baseline's.

    Raises:
        SpecError: the slots do not fit, or no width and hidden width meet the number of parameters.
    """
    base = baseline_recipe(spec)
    plain = _model(base, spec.model, spec.context, vocab_size, base.shape.width, spec.model.hidden)
    target = count_parameters(plain)
    if recipe.slots == base.slots and recipe.shape == base.shape:
        return plain
    return _matched(recipe, spec.model, spec.context, vocab_size, target, spec.tolerance)


def _matched(
    recipe: Recipe, sizes: ModelSizes, context: int, vocab_size: int, target: int, tolerance: float
) -> ModelSpec:
    narrowest = recipe.shape.width // 2
    step = 2 * recipe.shape.heads  # an even number of columns in each head, which rotary positions need
    for width in range(recipe.shape.width, narrowest, -step):
        first = count_parameters(_model(recipe, sizes, context, vocab_size, width, 1))
        slope = count_parameters(_model(recipe, sizes, context, vocab_size, width, 2)) - first
        hidden = 1 + round((target - first) / slope)
        if hidden < LEAST_HIDDEN * width:
            continue
        found = _model(recipe, sizes, context, vocab_size, width, hidden)
        if abs(count_parameters(found) - target) <= tolerance * target:
            return found
    raise SpecError(
        f"no width from {recipe.shape.width} down to {narrowest} gives this attention the {target:,} parameters of the "
        f"baseline within {tolerance:.0%}; leave the candidate out, or raise the tolerance"
    )


def _model(
    recipe: Recipe, sizes: ModelSizes, context: int, vocab_size: int, width: int, hidden: int | None
) -> ModelSpec:
    return ModelSpec(
        vocab_size=vocab_size,
        width=width,
        depth=recipe.shape.depth,
        context=context,
        layers=recipe.layers(),
        feed_forward=FeedForwardSpec(name=sizes.feed_forward, hidden=hidden),
        position=recipe.added_position,
        norm=sizes.norm,
        norm_placement=sizes.norm_placement,
        bias=sizes.bias,
        tie_embeddings=sizes.tie_embeddings,
        dropout=sizes.dropout,
        attention_dropout=sizes.attention_dropout,
    )


@lru_cache(maxsize=512)
def count_parameters(spec: ModelSpec) -> int:
    """Parameters of a model, tied ones once, without filling any."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(spec).parameters())


def _sum(text: str) -> tuple[str, ...]:
    """The terms of `a + b`, as texts."""

    def terms(node: ast.expr) -> list[ast.expr]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [*terms(node.left), *terms(node.right)]
        return [node]

    try:
        found = terms(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise SpecError(f"cannot read {text!r}: {error.msg}") from None
    return tuple(name for node in found if (name := ast.unparse(node)) != "none")


def _inside(text: str) -> str:
    """The part of a position that stands in the attention."""
    inside = [part for part in _sum(text) if part not in ADDED]
    if len(inside) > 1:
        raise SpecError(f"position={text}: one value beside what is added to the embeddings, got {len(inside)}")
    return inside[0] if inside else "none"


def _with_numbers(text: str, heads: int) -> str:
    """`heads=grouped` and its kin fitted to `heads` query heads."""
    fitted = {"multi_head": f"{heads}", "grouped": f"{heads}/{max(1, heads // 2)}", "multi_query": f"{heads}/1"}
    return fitted.get(text, text) if ("heads", text) in registry else text
