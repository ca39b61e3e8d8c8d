"""The names that users type, and the values they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isabstract

from attentune.errors import SpecError, near
from attentune.spec.masks import And, Mask, Not, Or
from attentune.spec.mechanism import Mechanism
from attentune.spec.slots import SLOTS


class Registry:
    """`kind` -> class, slot by slot. Codecs receive one; they know no mechanism by themselves."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, type[Mechanism]]] = {slot: {} for slot in SLOTS}
        for composite in (And, Or, Not):
            self._kinds[Mask.slot][composite.model_fields["kind"].default] = composite

    def register(self, value: type[Mechanism]) -> type[Mechanism]:
        """Add a mechanism; usable as a decorator. Its `kind` must be new in its slot."""
        if isabstract(value):
            raise SpecError(f"{value.__name__} is abstract: it lacks {', '.join(sorted(value.__abstractmethods__))}")
        kind = value.model_fields["kind"].default
        if not isinstance(kind, str) or not kind.isidentifier():
            raise SpecError(f"{value.__name__} needs a `kind` that is a name, got {kind!r}")
        held = self._kinds[value.slot].get(kind)
        if held is not None and held is not value:
            raise SpecError(f"{value.slot}={kind} is taken by {held.__module__}.{held.__name__}")
        self._kinds[value.slot][kind] = value
        return value

    def __contains__(self, item: tuple[str, str]) -> bool:
        slot, kind = item
        return kind in self._kinds.get(slot, {})

    def __iter__(self) -> Iterator[type[Mechanism]]:
        """Every mechanism, slot by slot in the order of the dataflow, without the operators of masks."""
        for kinds in self._kinds.values():
            for _, value in sorted(kinds.items()):
                if value not in (And, Or, Not):
                    yield value

    def kinds(self, slot: str) -> dict[str, type[Mechanism]]:
        """The values that `slot` may hold, by name."""
        if slot not in self._kinds:
            raise SpecError(f"unknown slot {slot!r}; {near(slot, self._kinds)}")
        return dict(self._kinds[slot])

    def find(self, slot: str, kind: str) -> type[Mechanism]:
        """The class named `kind` in `slot`; an error with near names, or the slot it belongs in."""
        name = kind.replace("-", "_")
        kinds = self.kinds(slot)
        if name in kinds:
            return kinds[name]
        if slot == "position" and name in ("sinusoidal", "learned"):
            raise SpecError(
                f"position={kind} is added to the embeddings, not inside attention: it is a field of the model"
            )
        elsewhere = [other for other, held in self._kinds.items() if name in held]
        if elsewhere:
            raise SpecError(f"{slot}={kind} is unknown; {name} belongs in {' or '.join(elsewhere)}")
        names = sorted(set(kinds) - {"and", "or", "not"})
        raise SpecError(f"{slot}={kind} is unknown; {near(name, names)}")
