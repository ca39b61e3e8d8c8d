"""`AttentionSpec`: an attention as one frozen value made of independent slots."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, final

from pydantic import SerializeAsAny, model_validator

from attentune.errors import SpecError
from attentune.spec.masks import Mask
from attentune.spec.mechanism import Dims, Mechanism, Stage
from attentune.spec.slots import (
    Bias,
    CarriedScore,
    CarriedValue,
    Combine,
    ElementwiseScore,
    HeadMix,
    Heads,
    Memory,
    Normalizer,
    OperandScore,
    OutputCombine,
    Position,
    RelativePosition,
    Rotation,
    Score,
    Selector,
    Similarity,
)
from attentune.spec.text import SEVERAL, format_value
from attentune.spec.value import Frozen

NEUTRAL = {"similarity": "scaled_dot", "mask": "full", "normalizer": "softmax"}  # what a text may leave out
PROBE = Dims(width=1, heads=1, groups=1, head_width=1, value_width=1, source_width=1)  # sizes that decide no question


@final
class AttentionSpec(Frozen):
    """One attention. `attentune.mechanisms.attention("heads=8, mask=causal")` makes one from text.

    The dataflow, with the slot that decides each step:

        heads       project x to q [B H Q D], k [B G K D], v [B G K V]
        combine     (operand stage) mix v with an earlier layer's
        scores      (operand stage) normalise q and k
        position    (rotations) turn q and k
        similarity  s = f(q, k)                     [B H Q K]
        head_mix    mix s across heads
        position    (biases) add to s
        scores      change s, in order
        mask        which keys are visible; the layout's documents and padding are ANDed last
        selector    which of the visible keys to attend to
        normalizer  p = weights(s)
        head_mix    mix p across heads
                    o = p v                         [B H Q V]
        combine     gate o, subtract one map from another, add q ...
        heads       project o back to the model width
    """

    heads: SerializeAsAny[Heads]
    similarity: SerializeAsAny[Similarity]
    position: SerializeAsAny[Position] | None = None
    mask: SerializeAsAny[Mask]
    scores: tuple[SerializeAsAny[Score], ...] = ()
    normalizer: SerializeAsAny[Normalizer]
    head_mix: SerializeAsAny[HeadMix] | None = None
    selector: SerializeAsAny[Selector] | None = None
    combine: tuple[SerializeAsAny[Combine], ...] = ()
    memory: SerializeAsAny[Memory] | None = None

    @model_validator(mode="after")
    def _slots_fit(self) -> AttentionSpec:
        carried = [score for score in self.scores if isinstance(score, CarriedScore)]
        if carried:
            name = carried[0].kind
            if len(carried) > 1:
                raise ValueError(f"{name} may stand in scores once, got {len(carried)}")
            if not self.is_inner_product:
                raise ValueError(f"{name} adds inner products; similarity={self.similarity.kind} is none")
            biased = self.position if isinstance(self.position, Bias | RelativePosition) else None
            if biased is not None or self.head_mix is not None:
                other = biased.kind if biased is not None else "head_mix"
                raise ValueError(f"{name} accumulates scores that nothing has changed yet; it cannot follow {other}")
            before = self.scores[: self.scores.index(carried[0])]
            if not all(isinstance(score, OperandScore) for score in before):
                raise ValueError(f"{name} must stand before every other score that acts on s")
        on_scores = [score for score in self.scores if isinstance(score, ElementwiseScore)]
        for place, hiding in enumerate(on_scores):
            later = [score.kind for score in on_scores[place + 1 :] if not score.is_factor]
            if hiding.hides and later:
                raise ValueError(f"scores={hiding.kind} must stand last: {later[0]} would bring its keys back")
        kinds = [score.kind for score in self.scores]
        if twice := {kind for kind in kinds if kinds.count(kind) > 1}:
            raise ValueError(f"scores holds {', '.join(sorted(twice))} more than once")
        turnable = self.is_inner_product or self.similarity.by_angle
        if not turnable and isinstance(self.position, Rotation):
            raise ValueError(
                f"position={self.position.kind} turns q and k, which makes relative positions only of what depends on "
                f"their lengths and inner product; similarity={self.similarity.kind} does not"
            )
        operand = next((score.kind for score in self.scores if isinstance(score, OperandScore)), None)
        if operand is not None and not self.heads.keeps_keys:
            raise ValueError(f"scores={operand} changes whole keys; heads={self.heads.kind} caches none")
        values = [value for value in self.combine if isinstance(value, CarriedValue)]
        kinds = [value.kind for value in self.combine]
        if twice := {kind for kind in kinds if kinds.count(kind) > 1}:
            raise ValueError(f"combine holds {', '.join(sorted(twice))} more than once")
        outputs = [value for value in self.combine if isinstance(value, OutputCombine)]
        wider = next((place for place, value in enumerate(outputs) if value.wide(PROBE) != PROBE.value_width), 0)
        if wider:
            raise ValueError(f"{outputs[wider].kind} widens the values: it must stand before {outputs[0].kind}")
        widens = bool(outputs) and outputs[0].wide(PROBE) != PROBE.value_width
        if widens and isinstance(self.position, RelativePosition) and self.position.adds_values:
            raise ValueError(
                f"{outputs[0].kind} widens the values; position={self.position.kind} adds vectors as wide as a head's"
            )
        if values and not self.heads.keeps_keys:
            raise ValueError(f"combine={values[0].kind} mixes whole values; heads={self.heads.kind} caches none")
        if isinstance(self.position, RelativePosition) and not self.is_inner_product:
            raise ValueError(
                f"position={self.position.kind} adds inner products; similarity={self.similarity.kind} is none"
            )
        if isinstance(self.position, Rotation) and not self.heads.keeps_keys and not getattr(self.heads, "rotary", 0):
            raise ValueError(
                f"position={self.position.kind} needs columns to turn: say heads={self.heads.kind}(..., rotary=16)"
            )
        if self.memory is not None and self.selector is not None:
            raise ValueError(f"memory={self.memory.kind} and selector={self.selector.kind} count positions differently")
        steady = self.position.steady_length if isinstance(self.position, Rotation) else None
        if self.memory is not None and steady is not None:
            raise ValueError(
                f"position={self.position.kind} turns keys by the length of the row, "  # type: ignore[union-attr]
                f"but memory={self.memory.kind} goes on beyond it"
            )
        if self.memory is not None and self.mask.lookahead != 0:
            raise ValueError(f"memory={self.memory.kind} needs a mask that never shows later keys, such as causal")
        if self.selector is not None and self.mask.lookahead != 0:
            raise ValueError(f"selector={self.selector.kind} needs a mask that never shows later keys, such as causal")
        return self

    def __str__(self) -> str:
        """The text form, which `attention(...)` reads back to an equal value."""
        parts = []
        for slot in type(self).model_fields:
            held = getattr(self, slot)
            if held is None or held == ():
                continue
            text = " + ".join(map(format_value, held)) if slot in SEVERAL else format_value(held)
            if NEUTRAL.get(slot) != text:
                parts.append(f"{slot}={text}")
        return ", ".join(parts)

    @cached_property
    def text(self) -> str:
        """The text form, made once."""
        return str(self)

    @property
    def is_inner_product(self) -> bool:
        """Whether s = c q.k for a constant c."""
        return self.similarity.inner_product_scale(PROBE) is not None

    def values(self) -> Iterator[tuple[str, int, Mechanism]]:
        """Every value with its slot and its place in the slot, in the order of the fields."""
        for slot in type(self).model_fields:
            held: Any = getattr(self, slot)
            held = () if held is None else held if isinstance(held, tuple) else (held,)
            for place, value in enumerate(held):
                yield slot, place, value

    def check_cross(self) -> None:
        """Raise `SpecError` where a slot has no meaning between two different sequences."""
        for slot, _, value in self.values():
            if slot == "mask":
                if (order := _ordered_mask(self.mask)) is not None:
                    raise SpecError(
                        f"cross-attention has no common order of queries and keys: "
                        f"mask={order} has no meaning, use full"
                    )
            elif isinstance(value, CarriedScore | CarriedValue):
                raise SpecError(
                    f"cross-attention hands nothing from layer to layer: {slot}={value.kind} would do nothing"
                )
            elif value.needs_order:
                raise SpecError(
                    f"cross-attention has no common order of queries and keys: {slot}={value.kind} has no meaning"
                )

    def changes_scores(self) -> bool:
        """Whether anything but position biases changes s between similarity and normaliser."""
        return any(score.stage is Stage.SCORES for score in self.scores) or self.head_mix is not None


def _ordered_mask(mask: Mask) -> str | None:
    parts: tuple[Mask, ...] = getattr(mask, "masks", ()) or ((mask.mask,) if hasattr(mask, "mask") else ())
    if parts:
        return next((kind for part in parts if (kind := _ordered_mask(part)) is not None), None)
    return mask.kind if mask.needs_order else None
