"""Which cases there are: every mechanism x kernel x dtype x layout that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from attentune.errors import KernelError, SpecError, near
from attentune.kernels import KERNELS
from attentune.mechanisms import layer as read_layer
from attentune.mechanisms import registry
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Mechanism
from attentune.spec.model import LayerSpec
from attentune.spec.slots import Mixer
from attentune.verification.examples import COMBINATIONS, examples, layers
from attentune.verification.identities import IDENTITIES
from attentune.verification.inputs import EVERYTHING, LAYOUTS

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
IDENTITY = "identity"  # stands where a kernel's name stands
CROSS = read_layer("heads=2, mask=causal").attention  # the layer's own attention, beside the one to another sequence


@dataclass(frozen=True)
class Selection:
    """What to verify; an empty tuple means all there is."""

    mechanisms: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()  # texts to verify instead of mechanisms
    kernels: tuple[str, ...] = ()  # of attention, forms of mixers, or `identity`
    dtypes: tuple[torch.dtype, ...] = ()
    layouts: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0
    quick: bool = False  # the plain example of each mechanism: on every layout in float64, on plain rows in float32

    def __post_init__(self) -> None:
        known = {value.model_fields["kind"].default for value in registry}
        for name in self.mechanisms:
            if name.replace("-", "_") not in known:
                raise SpecError(f"unknown mechanism {name!r}; {near(name, known)}")
        ways = {*KERNELS, IDENTITY, *(form for value in registry if issubclass(value, Mixer) for form in value.forms)}
        for name in self.kernels:
            if name not in ways:
                raise KernelError(f"unknown kernel {name!r}; {near(name, ways)}")
        for name in self.layouts:
            if name not in LAYOUTS:
                raise SpecError(f"unknown layout {name!r}; {near(name, LAYOUTS)}")


@dataclass(frozen=True)
class Item:
    """One case: a layer of the mechanism, how it is computed, in which dtype, on which layout."""

    mechanism: str
    text: str  # of the layer, or the name of an identity
    layer: LayerSpec | None  # None for an identity, and where no layer can hold the mechanism
    kernel: str
    dtype: torch.dtype
    layout: str
    refusal: str = ""
    named: bool = False  # the kernel was asked for by name: without gradients, if it has none
    plain: bool = True  # the plain example of its mechanism: verified as a model in every dtype

    @property
    def mixer(self) -> Mixer | None:
        """The mixer that is verified by itself."""
        return self.layer.branches[0] if self.layer is not None and self.layer.branches else None


def items(selection: Selection) -> Iterator[Item]:
    """Every case of `selection`, mechanism by mechanism."""
    if selection.attentions:
        for text in selection.attentions:
            yield from _of_layer(selection, "", read_layer(text), slot="mask")
        return
    chosen = {name.replace("-", "_") for name in selection.mechanisms}
    for mechanism in registry:
        kind = mechanism.model_fields["kind"].default
        if not chosen or kind in chosen:
            yield from _of_mechanism(selection, mechanism, kind)
    if not chosen and not selection.quick:
        for text in COMBINATIONS:
            yield from _of_layer(selection, "combination", read_layer(text), slot="mask")


def _of_mechanism(selection: Selection, mechanism: type[Mechanism], kind: str) -> Iterator[Item]:
    values = examples(mechanism)
    for value in values[:1] if selection.quick else values:
        try:
            held = layers(value)
        except SpecError as refusal:
            yield Item(kind, repr(value), None, "", DTYPES[0], "", str(refusal))
            continue
        for layer in held[:1] if selection.quick else held:
            for item in _of_layer(selection, kind, layer, slot=mechanism.slot):
                yield replace(item, plain=value is values[0])
    if not selection.kernels or IDENTITY in selection.kernels:
        for name in IDENTITIES.get(kind, {}):
            for dtype in _dtypes(selection):
                if dtype.itemsize >= 4:
                    yield Item(kind, name, None, IDENTITY, dtype, "plain")


def _dtypes(selection: Selection) -> tuple[torch.dtype, ...]:
    return selection.dtypes or (DTYPES[:2] if selection.quick else DTYPES)


def _layouts(selection: Selection, dtype: torch.dtype) -> tuple[str, ...]:
    plain_rows = selection.quick and not selection.dtypes and dtype is not torch.float64
    return selection.layouts or (("plain",) if plain_rows else LAYOUTS)


def _of_layer(selection: Selection, kind: str, layer: LayerSpec, *, slot: str) -> Iterator[Item]:
    ways = layer.branches[0].forms if layer.branches else tuple(KERNELS)
    for kernel in ways:
        if selection.kernels and kernel not in selection.kernels:
            continue
        for dtype in _dtypes(selection):
            for layout in _layouts(selection, dtype):
                item = Item(kind, str(layer), layer, kernel, dtype, layout, named=kernel in selection.kernels)
                yield _across(item, slot) if layout == "cross" else item


def _across(item: Item, slot: str) -> Item:
    """The case with keys of another sequence, or refused where that has no meaning."""
    assert item.layer is not None
    if item.layer.branches:
        return replace(item, refusal="a mixer carries a state along one sequence: it has no other to look at")
    spec = item.layer.cross or item.layer.attention
    assert isinstance(spec, AttentionSpec)
    try:
        if slot != "mask" and spec.mask.kind == "causal":
            spec = spec.replace(mask=EVERYTHING)
        layer = LayerSpec(attention=CROSS, cross=spec)
    except SpecError as refusal:
        return replace(item, refusal=str(refusal))
    return replace(item, text=str(spec), layer=layer)
