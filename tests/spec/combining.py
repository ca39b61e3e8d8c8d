"""Random combinations of all mechanisms, with legal and illegal fields, for hypothesis; and what each must do."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import torch
from hypothesis import strategies as st

from attentune.errors import AttentuneError
from attentune.kernels import KERNELS
from attentune.mechanisms import registry
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Mechanism
from attentune.spec.model import LayerSpec
from attentune.spec.slots import ATTENTION_SLOTS, Mixer
from attentune.spec.text import SEVERAL
from attentune.verification import kernel_checks, model_checks
from attentune.verification.examples import examples
from attentune.verification.findings import Finding, against_reference, holds
from attentune.verification.inputs import EVERYTHING
from attentune.verification.kernel_checks import KernelCase
from attentune.verification.model_case import ModelCase
from attentune.verification.named import NAMES
from attentune.verification.round_trip import comes_back
from attentune.verification.suite import CROSS

# A drawn number may saturate a parameter, or bend the loss too sharply for differences of one step.
STEADY = (model_checks.every_parameter_learns, model_checks.gradients_are_slopes)
WHOLE = (1, 2, 3, 5, 8, 64, 0, -1)
REAL = (0.5, 1.0, 2.0, 1.5, 0.01, 30.0, 0.0, -1.0, float("inf"), float("nan"))
WORDS = (*NAMES, "nobody_registered_this")
LENGTHS = (7, 3, 5, 8)
SLOTS = {"position": 1, "scores": 2, "head_mix": 4, "selector": 6, "combine": 2, "memory": 6}  # one in so many more
ORDERED = ("position", "selector", "memory")
CAUSAL = next(m for m in registry if m.model_fields["kind"].default == "causal")()  # type: ignore[call-arg]
Kinds = {slot: [m for m in registry if m.slot == slot] for slot in (*ATTENTION_SLOTS, "branches")}


def fields(annotation: Any, name: str) -> st.SearchStrategy[Any]:
    """What a user might type for a field: mostly what fits."""
    if name == "heads":
        return st.sampled_from((4, 2, 1, 3, 0))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.sampled_from(WHOLE)
    if annotation is float:
        return st.sampled_from(REAL)
    if annotation is str:
        return st.sampled_from(WORDS)
    if get_origin(annotation) is Literal:
        return st.sampled_from((*get_args(annotation), "nonsense"))
    if get_origin(annotation) is tuple:
        return st.lists(st.integers(-1, 6), max_size=7).map(tuple)
    parts = [fields(part, "") for part in get_args(annotation) if part is not type(None)]
    return st.none() | st.one_of(parts) if parts else st.nothing()


@st.composite
def values(draw: st.DrawFn, slot: str) -> Mechanism:
    """A value of `slot`: one of its examples, or fields drawn at random. Raises `SpecError` where they are refused."""
    mechanism = draw(st.sampled_from(Kinds[slot]))
    if draw(st.integers(0, 9)):
        return draw(st.sampled_from(examples(mechanism)))
    drawn = {}
    for name, field in mechanism.model_fields.items():
        if name != "kind" and (field.is_required() or draw(st.booleans())):
            drawn[name] = draw(fields(field.annotation, name))
    return mechanism(**drawn)  # type: ignore[call-arg]


@st.composite
def attempts(draw: st.DrawFn) -> tuple[LayerSpec | AttentuneError, str, int, torch.dtype, int]:
    """A layer, or why it was refused; with a layout, a length, a dtype and a seed to compute it with."""
    layout = draw(st.sampled_from(("plain", "padded", "packed", "cached", "cross")))
    rest = (
        layout,
        draw(st.sampled_from(LENGTHS)),
        draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16))),
        draw(st.integers(0, 2**16)),
    )
    try:
        return (draw(_layers(layout)), *rest)
    except AttentuneError as refusal:
        return (refusal, *rest)


@st.composite
def _layers(draw: st.DrawFn, layout: str) -> LayerSpec:
    slots: dict[str, Any] = {
        "heads": draw(values("heads")),
        "similarity": draw(values("similarity")) if not draw(st.integers(0, 3)) else examples(_plain("scaled_dot"))[0],
        "mask": draw(_masks()),
        "normalizer": draw(values("normalizer")),
    }
    fitting = bool(draw(st.integers(0, 3)))  # mostly, what cannot stand together is left out
    for slot, seldom in SLOTS.items():
        if draw(st.integers(0, seldom)) or (fitting and layout == "cross" and slot in ORDERED):
            continue
        several = draw(st.integers(1, 2)) if slot in SEVERAL and not fitting else 1
        held = tuple(draw(values(slot)) for _ in range(several))
        slots[slot] = held if slot in SEVERAL else held[0]
    if fitting and layout == "cross":
        slots["mask"] = EVERYTHING
    elif fitting and ("memory" in slots or "selector" in slots):
        slots.pop("memory" if "selector" in slots else "selector", None)
        slots["mask"] = CAUSAL if slots["mask"].lookahead is None else CAUSAL & slots["mask"]
    spec = AttentionSpec(**slots)
    if layout == "cross":
        return LayerSpec(attention=CROSS, cross=spec)
    branch = draw(values("branches")) if not draw(st.integers(0, 7)) else None
    assert branch is None or isinstance(branch, Mixer)
    return LayerSpec(attention=spec, branches=() if branch is None else (branch,))


@st.composite
def _masks(draw: st.DrawFn) -> Any:
    mask: Any = draw(values("mask"))
    for way in draw(st.lists(st.sampled_from(("and causal", "and", "or", "not")), max_size=2)):
        if way == "not":
            mask = ~mask
        else:
            other: Any = CAUSAL if way == "and causal" else draw(values("mask"))
            mask = mask | other if way == "or" else mask & other
    return mask


def _plain(kind: str) -> type[Mechanism]:
    return next(m for m in registry if m.model_fields["kind"].default == kind)


def outcome(layer: LayerSpec, layout: str, length: int, dtype: torch.dtype, seed: int) -> tuple[str, list[Finding]]:
    """Every able kernel and the decoded model against the reference; or the reason that refuses them."""
    spec = layer.cross or layer.attention
    assert spec is not None
    findings: list[Finding] = []
    try:
        findings += comes_back(layer)
        for kernel in KERNELS:
            case = KernelCase(spec, kernel, dtype, layout, seed=seed, length=length)
            if case.reasons():
                continue
            findings += _by_kernel(case)
        model = ModelCase(layer, "auto", torch.float64, layout, seed=seed)
        for check in model_checks.CHECKS[layout]:
            if check not in STEADY:
                findings += check(model)
    except AttentuneError as refusal:
        return str(refusal), findings
    return "", findings


def _by_kernel(case: KernelCase) -> list[Finding]:
    found = case.found
    findings = [holds("all numbers are finite", name, bool(t.isfinite().all())) for name, t in found.items()]
    if case.kernel != "reference":
        findings += against_reference("exact", found, case.compute(kernel="reference"), case.truth, case.dtype)
    for check in kernel_checks.CHECKS[case.layout]:
        if check is not kernel_checks.exact:
            findings += check(case)
    return findings
