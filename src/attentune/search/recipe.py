"""A recipe: one attention, slot by slot, with the settings and the shape that it is trained with.

What a study compares are recipes. `attentune.search.matching` turns one into a model with as many parameters as the
baseline has.
"""

from __future__ import annotations

import ast
import math
from typing import Literal

from attentune.errors import SpecError
from attentune.mechanisms import layer, registry
from attentune.search.candidates import ADDED, PLACES, Stack, site_of, slot_of
from attentune.search.result import Scalar
from attentune.search.shape import Shape
from attentune.search.space import Settings, StudySpec
from attentune.spec.codec import mechanism_from_data
from attentune.spec.model import LayerSpec
from attentune.spec.run import ClipSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.spec.slots import SLOTS
from attentune.spec.text import SEVERAL, split
from attentune.spec.value import Frozen

INTERIM = 60  # an evaluation on the way uses one token for so many trained on: all of them cost about 5 % of the time
DECODER_2017 = "heads=multi_head, position=sinusoidal, mask=causal"  # arXiv:1706.03762
ENCODER_2017 = "heads=multi_head, position=sinusoidal, mask=full"
CROSS_2017 = "heads=multi_head"
EVALUATIONS = 10  # of a run


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
        ordered = tuple((name, held[name]) for name in PLACES if held.get(name, "none") != "none")
        return self.replace(slots=ordered)

    def changed_slots(self, other: Recipe) -> tuple[str, ...]:
        """The slots in which the two differ."""
        return tuple(name for name in PLACES if self.value(name) != other.value(name))

    def added_position(self, site: str = "") -> Literal["none", "sinusoidal", "learned"]:
        """What is added to the embeddings, those of the encoder where `site` is `encoder.`."""
        parts = {part for text in self.value(f"{site}position").split(";") for part in _sum(text)}
        return next((added for added in ADDED if added in parts and added != "none"), "none")

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder, and what looks at it, are described too."""
        return any(site_of(place) for place, _ in self.slots)

    def layers(self, site: str = "") -> tuple[LayerSpec, ...]:
        """The pattern of layers, of the encoder where `site` is `encoder.`.

        Raises:
            SpecError: a text does not parse, or the slots do not fit each other.
        """
        held = self._parts(site)
        if self.has_encoder and not site:
            across = self._parts("cross.")
            texts = _patterns(across)
            held["cross"] = [f"attention({text})" for text in texts]
        return tuple(layer(text) for text in _patterns(held))

    def _parts(self, site: str) -> dict[str, list[str]]:
        """The texts of a site's slots, taken apart where they alternate from layer to layer."""
        held = {
            slot_of(place): [part.strip() for part in text.split(";")]
            for place, text in self.slots
            if site_of(place) == site
        }
        if "position" in held:
            held["position"] = [_inside(text) for text in held["position"]]
        held["heads"] = [_with_numbers(text, self.shape.heads) for text in held.get("heads", ["multi_head"])]
        return held

    def attention(self) -> str:
        """The attention in its text form, with what is added to the embeddings first where there is something.

        Of an encoder-decoder first the decoder's, with `cross=`, then the encoder's.
        """
        texts = []
        for site in ("", "encoder.") if self.has_encoder else ("",):
            added = self.added_position(site)
            text = "; ".join(str(one) for one in self.layers(site))
            texts.append(text if added == "none" else f"added={added}, {text}")
        return " | encoder: ".join(texts)

    def flat(self) -> dict[str, Scalar]:
        """Every setting under its own name, for ledger and report."""
        settings = self.settings.model_dump(exclude_none=True)
        return {"attention": self.attention(), **settings, **self.shape.model_dump()}


def baseline_texts(spec: StudySpec, stack: Stack) -> dict[str, str]:
    """The attention that everything is compared with, by site: where the study does not say, that of 2017.

    With several layers, the slots of a text may alternate by `;`.
    """
    own = {"": spec.baseline or (ENCODER_2017 if stack == "encoder" else DECODER_2017)}
    if stack == "encoder-decoder":
        own |= {"encoder.": spec.baseline_encoder or ENCODER_2017, "cross.": spec.baseline_cross or CROSS_2017}
    elif spec.baseline_encoder or spec.baseline_cross:
        raise SpecError("baseline_encoder and baseline_cross are for tasks from sequence to sequence")
    return own


def baseline_recipe(spec: StudySpec, stack: Stack = "decoder") -> Recipe:
    """The untuned baseline of a study."""
    recipe = Recipe(slots=(), settings=spec.settings, shape=spec.model.shape)
    for site, texts in baseline_texts(spec, stack).items():
        layers = [split(text, tuple(SLOTS)) for text in texts.split(";")]
        for slot in SLOTS:
            parts = [ast.unparse(one[slot]) if slot in one else "none" for one in layers]
            recipe = recipe.holding(f"{site}{slot}", parts[0] if len(set(parts)) == 1 else "; ".join(parts))
    return recipe


def check_candidates(spec: StudySpec, stack: Stack = "decoder") -> None:
    """Raises where a candidate is no value of its slot. Whether it fits the other slots, its own trial will tell.

    Raises:
        SpecError: naming the slot and the candidate, with near names; or a site that the stack does not have.
    """
    for place, texts in spec.space(stack).items():
        slot = slot_of(place)
        if site_of(place) and stack != "encoder-decoder":
            raise SpecError(f"candidates.{place}: only tasks from sequence to sequence have an encoder and a decoder")
        for text in texts:
            for piece in text.split(";"):
                value = _inside(piece) if slot == "position" else piece.strip()
                if slot == "heads":
                    value = _with_numbers(value, spec.model.heads)
                try:
                    mechanism_from_data(slot, value, registry)
                except SpecError as error:
                    raise SpecError(f"candidates.{place}: {error}") from None


def joined(slot: str, held: str, added: str, order: tuple[str, ...]) -> str:
    """The values of two texts of a slot that holds several, in the `order` in which the candidates are listed."""
    parts = [*_sum(held), *_sum(added)]
    known = [part for one in order for part in _sum(one)]
    return " + ".join(sorted(dict.fromkeys(parts), key=lambda part: known.index(part) if part in known else -1))


def holds_several(slot: str) -> bool:
    """Whether a candidate of `slot` may stand beside another one."""
    return slot_of(slot) in SEVERAL


def run_spec(recipe: Recipe, spec: StudySpec, *, steps: int, seed: int, evaluations: int = EVALUATIONS) -> RunSpec:
    """The training run of `recipe` over `steps` steps, evaluated about so many times."""
    settings = recipe.settings
    every = max(1, -(-steps // evaluations))
    return RunSpec(
        data=spec.data,
        context=spec.context,
        batch=spec.batch,
        steps=steps,
        optimizer=OptimizerSpec(
            name=settings.optimizer,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            beta1=settings.beta1,
            beta2=settings.beta2,
            momentum=settings.momentum,
            adamw_ratio=settings.adamw_ratio,
        ),
        schedule=ScheduleSpec(name=settings.schedule, warmup=_warmup(settings, steps), floor=settings.floor),
        clip=ClipSpec(name=settings.clip, limit=settings.clip_limit),
        regularizer=spec.regularizer,
        precision=settings.precision,
        seed=seed,
        evaluate_every=every,
        evaluate_tokens=max(8 * spec.context, min(32_768, steps * spec.tokens_per_step // INTERIM)),
        average=spec.average,
        checkpoint_every=every * max(1, 250 // every),
        diagnose_every=0,
    )


def _warmup(settings: Settings, steps: int) -> int:
    if settings.warmup_steps is None:
        return round(settings.warmup * steps)
    return min(settings.warmup_steps, steps // 2)


def _patterns(held: dict[str, list[str]]) -> list[str]:
    """One text for each layer of a pattern; slots that alternate do so in step."""
    length = math.lcm(*(len(parts) for parts in held.values()))
    return [
        ", ".join(
            f"{slot}={parts[index % len(parts)]}" for slot, parts in held.items() if parts[index % len(parts)] != "none"
        )
        for index in range(length)
    ]


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
