"""A value of every mechanism, and an attention that holds it: made from the mechanism itself.

A field says what to try with pydantic's `examples`:

    length: PositiveInt | None = Field(default=None, examples=[3])

Fields that say nothing are given small numbers of their type, so that a new mechanism needs no entry anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from itertools import chain, islice, product
from typing import Any, Literal, get_args, get_origin

import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.spec.attention import AttentionSpec
from attentune.spec.masks import Mask
from attentune.spec.mechanism import Dims, Mechanism
from attentune.spec.model import LayerSpec
from attentune.spec.positions import Positions
from attentune.spec.slots import Mixer, OutputCombine, Rotation
from attentune.spec.text import SEVERAL
from attentune.verification.named import NAMES

WHOLE = (2, 3, 4, 8, 1, 0)  # smaller than the rows that are verified, so that each changes something
REAL = (0.5, 1.5, 2.5, 0.3, 8.0)
SEQUENCES = ((-1, 0, 0, 2, 1, 4, -1), (0, 4), (1,))  # parents of nodes, numbers of tokens
PLAIN: dict[Any, tuple[Any, ...]] = {bool: (True, False), int: WHOLE, float: REAL, str: NAMES}
HEADS = 4
HEAD_WIDTHS = (4, 8, 2, 16)
TRIED = 4096  # combinations of required fields
CONTEXTS = (
    "heads=4/2, mask=causal",
    "heads=4, mask=causal",
    "heads=latent(4, 3, rotary=2), mask=causal",
    "heads=4/2",
    "heads=4",
    "heads=4, mask=causal, similarity=additive",
)
COMBINATIONS = (  # mechanisms that meet inside a kernel
    "heads=4/2, mask=causal & (window(2) | sink(1)), similarity=scaled_dot(scale=0.7)",
    "heads=2, mask=causal | prefix(3)",
    "heads=2, mask=~causal",
    "heads=3/1, mask=~causal, position=alibi",
    "heads=2, mask=window(4), scores=temperature(value=0.5, learned=false)",
    "heads=2, mask=~causal, position=alibi, normalizer=softmax_off_by_one",
    "heads=4/2, mask=causal, position=alibi, scores=temperature + soft_cap(2.0)",
    "heads=2, mask=window(3), normalizer=entmax15",
    "heads=latent(2, 3, rotary=2), mask=causal, position=rotary",
    "heads=4/2, mask=window(3), position=rotary, scores=qk_norm, combine=gate(per=element), head_mix=talking_heads",
)


@cache
def examples(mechanism: type[Mechanism]) -> tuple[Mechanism, ...]:
    """The plain value, then values with every other choice, and with other numbers, where fields have any.

    Raises `SpecError` naming the field that needs `examples` where no legal value is found.
    """
    first, *others = _plain(mechanism)
    found = [first, *others]
    together: dict[str, Any] = {}
    for name, field in mechanism.model_fields.items():
        if name in ("kind", "heads"):
            continue
        choices = [*(field.examples or ()), *_choices(field.annotation)]
        for held in choices:
            found += _with(first, name, held)
        if not choices and not field.is_required():
            other = (held for held in _candidates(field.annotation, name) if held != field.default)
            alone = list(islice(chain.from_iterable(_with(first, name, held) for held in other), 1))
            if alone:
                together[name] = getattr(alone[0], name)
            found += alone
    several = list(_legal(first, [together])) if len(together) > 1 else []
    if several and not isinstance(first, Mask):  # the others show no more than this one
        found = [value for value in found if not _differs_in_one(value, first, together)] + several
    return tuple(dict.fromkeys(found))


def _plain(mechanism: type[Mechanism]) -> list[Mechanism]:
    """The value with nothing but what is required; where that is refused, those with one field more."""
    kind = mechanism.model_fields["kind"].default
    required = {name: field for name, field in mechanism.model_fields.items() if field.is_required()}
    tried = [field.examples or _candidates(field.annotation, name) for name, field in required.items()]
    refusal = SpecError("no value to try")
    for values in islice(product(*tried), TRIED):
        try:
            return [mechanism(**dict(zip(required, values, strict=True)))]
        except SpecError as error:
            refusal = error
    found = []
    for name, field in mechanism.model_fields.items():
        if not required and name != "kind":
            for held in field.examples or _candidates(field.annotation, name):
                try:
                    found.append(mechanism(**{name: held}))
                    break
                except SpecError as error:
                    refusal = error
    if found:
        return found
    silent = next((name for name, values in zip(required, tried, strict=True) if not values), next(iter(required), ""))
    raise SpecError(
        f"{mechanism.slot}={kind} cannot be verified, no example was found ({refusal}): "
        f"give its field {silent or 'kind'} one, with Field(examples=[...])"
    )


def _with(value: Mechanism, name: str, held: Any) -> list[Mechanism]:
    """`value` with `held`; where that is refused, with another number in one other field beside it."""
    if alone := list(_legal(value, [{name: held}])):
        return alone
    beside = (
        {name: held, other: candidate}
        for other, field in type(value).model_fields.items()
        if other not in ("kind", name)
        for candidate in field.examples or _candidates(field.annotation, other)
    )
    return list(islice(_legal(value, beside), 1))


def _legal(value: Mechanism, changes: Iterable[dict[str, Any]]) -> Iterator[Mechanism]:
    for change in changes:
        try:
            yield value.replace(**change)
        except SpecError:
            continue


def _differs_in_one(value: Mechanism, first: Mechanism, names: dict[str, Any]) -> bool:
    changed = [name for name in type(first).model_fields if getattr(value, name) != getattr(first, name)]
    return len(changed) == 1 and changed[0] in names


def _candidates(annotation: Any, name: str) -> tuple[Any, ...]:
    if name == "heads":
        return (HEADS, 2, 1)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) is tuple:
        return SEQUENCES if int in chain(get_args(annotation), *map(get_args, get_args(annotation))) else ()
    return tuple(chain.from_iterable(_candidates(part, "") for part in get_args(annotation)))


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def layers(value: Mechanism) -> tuple[LayerSpec, ...]:
    """Layers that hold `value`: first the plainest legal one. `SpecError` where there is none."""
    if isinstance(value, Mixer):
        return LayerSpec(attention=attention(CONTEXTS[0]), branches=(value,)), LayerSpec(
            attention=None, branches=(value,)
        )
    held: Any = (value,) if value.slot in SEVERAL else value
    refusals: list[SpecError] = []
    for text in CONTEXTS:
        try:
            spec = attention(text).replace(**{value.slot: held})
            sizes(spec)
        except SpecError as error:
            refusals.append(error)
            continue
        if isinstance(value, Mask) and value.lookahead != 0:
            causal = spec.replace(mask=attention(CONTEXTS[0]).mask & value)
            return LayerSpec(attention=spec), LayerSpec(attention=causal)
        return (LayerSpec(attention=spec),)
    raise refusals[0]


@lru_cache(maxsize=256)
def sizes(spec: AttentionSpec, *, cross: bool = False, bias: bool = False, depth: int = 1) -> Dims:
    """The sizes of `spec` in the narrowest model that it fits. `SpecError` where it fits none of those tried."""
    refusals: list[SpecError] = []
    for head_width in HEAD_WIDTHS:
        width = head_width * spec.heads.heads
        try:
            dims = spec.heads.dims(width=width, source_width=width, depth=depth, bias=bias, cross=cross)
            for _, _, value in spec.values():
                value.parameters(dims)
                if isinstance(value, Rotation):
                    value.table(spec.heads.rotated(dims)[1], Positions.arange(1), torch.float32)
        except SpecError as error:
            refusals.append(error)
            continue
        return dims
    raise refusals[0]


def summed(spec: AttentionSpec, dims: Dims) -> Dims:
    """The sizes as kernels see them: with values as wide as the spec's `combine` makes them."""
    for value in spec.combine:
        if isinstance(value, OutputCombine):
            dims = replace(dims, value_width=max(dims.value_width, value.wide(dims)))
    return dims
