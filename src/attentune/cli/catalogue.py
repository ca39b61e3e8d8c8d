"""What a mechanism's own file says of it, as data and as text."""

from __future__ import annotations

import inspect
import re
import types
from textwrap import dedent, fill, indent
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from attentune.errors import AttentuneError
from attentune.spec.halting import HaltingSpec
from attentune.spec.mechanism import Dims, Mechanism
from attentune.spec.slots import Heads
from attentune.spec.value import Frozen

PAPER = re.compile(r"\s*\(([^()]*arXiv:[^()]*)\)")
WIDTH, HEADS = 512, 8  # the sizes at which the learned tensors are shown
COLUMNS = 110


def describe(value: type[Mechanism]) -> dict[str, Any]:
    """Kind, slot, stage, title, summary, paper, formula, notes, options and learned tensors of a mechanism.

    `learns` maps names to shapes at width 512 with 8 heads; None where they depend on options that have no default.
    """
    module = inspect.getmodule(value)
    title, _, body = ((module.__doc__ if module else None) or "").partition("\n")
    paragraphs = [part.strip("\n").rstrip() for part in re.split(r"\n\s*\n", body) if part.strip()]
    return {
        "kind": value.model_fields["kind"].default,
        "slot": value.slot,
        "stage": str(value.stage),
        "title": PAPER.sub("", title).strip().rstrip("."),
        "summary": " ".join((inspect.getdoc(value) or "").split()),
        "paper": "; ".join(PAPER.findall(title)),
        "formula": "\n".join(dedent(part) for part in paragraphs if part.startswith("    ")),
        "notes": " ".join(" ".join(part.split()) for part in paragraphs if not part.startswith("    ")),
        "options": _options(value),
        "learns": _learns(value),
    }


def of_the_model() -> list[dict[str, Any]]:
    """What is said of a model and not of an attention, in the form of `describe`."""
    halting, _, rest = (inspect.getdoc(inspect.getmodule(HaltingSpec)) or "").partition("\n")
    parts = [part for part in re.split(r"\n\s*\n", rest.strip("\n")) if part.strip()]
    added = {
        "none": ("Nothing is added to the embeddings", "", "", ""),
        "sinusoidal": (
            "Sines and cosines added to the embeddings",
            "PE(p, 2i) = sin(p / 10000^(2i / E)),    PE(p, 2i + 1) = cos(p / 10000^(2i / E))",
            "arXiv:1706.03762",
            "",
        ),
        "learned": (
            "A learned vector for each position, added to the embeddings",
            "x_p = embedding(token) + W[p]",
            "arXiv:1705.03122",
            "Ends at the model's context.",
        ),
    }
    entries: list[dict[str, Any]] = [
        {"slot": "model.position", "kind": kind, "title": title, "formula": formula, "paper": paper, "notes": notes}
        for kind, (title, formula, paper, notes) in added.items()
    ]
    entries.append(
        {
            "slot": "model.halting",
            "kind": "halting",
            "title": halting.rstrip("."),
            "formula": "\n".join(dedent(part) for part in parts if part.startswith("    ")),
            "paper": "arXiv:1603.08983; arXiv:2112.07658",
            "notes": " ".join(" ".join(part.split()) for part in parts if not part.startswith("    ")),
            "options": _options(HaltingSpec),
        }
    )
    return [{"summary": "", "options": [], "stage": "model", "learns": None, **entry} for entry in entries]


def _options(value: type[Frozen]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": type_name(field.annotation),
            "required": field.is_required(),
            "default": None if field.is_required() else field.default,
        }
        for name, field in value.model_fields.items()
        if name != "kind" and not _is_constant(field.annotation)
    ]


def type_name(annotation: Any) -> str:
    """An annotation as users read it: without bounds, which the error of a wrong value names."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(part) for part in get_args(annotation))
    if origin is tuple:
        return f"tuple of {type_name(get_args(annotation)[0])}"
    if origin is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if annotation is type(None):
        return "none"
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _is_constant(annotation: Any) -> bool:
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def _learns(value: type[Mechanism]) -> dict[str, list[int]] | None:
    if value.parameters is Mechanism.parameters:
        return {}
    head = WIDTH // HEADS
    dims = Dims(width=WIDTH, heads=HEADS, groups=HEADS, head_width=head, value_width=head, source_width=WIDTH)
    try:
        counts = issubclass(value, Heads) and value.model_fields["heads"].is_required()
        made = value(heads=HEADS) if counts else value()  # type: ignore[call-arg]
        if isinstance(made, Heads):
            dims = made.dims(width=WIDTH, source_width=WIDTH, depth=1, bias=False, cross=False)
        tensors = made.parameters(dims)
    except AttentuneError:
        return None
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def as_text(entry: dict[str, Any]) -> str:
    """What `describe` found, for people."""
    rows = {
        "paper": entry["paper"],
        "stage": entry["stage"],
        "options": ", ".join(_option(option) for option in entry["options"]) or "none",
        "learns": "" if entry["stage"] == "model" else _learned(entry["learns"]),
    }
    table = [
        fill(text, COLUMNS, initial_indent=f"  {name:<8} ", subsequent_indent=" " * 11)
        for name, text in rows.items()
        if text
    ]
    blocks = [
        f"{entry['slot']}={entry['kind']}\n" + _paragraph(f"{entry['title']}. {entry['summary']}".strip()),
        indent(entry["formula"], " " * 6),
        _paragraph(entry["notes"]),
        "\n".join(table),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _paragraph(text: str) -> str:
    return fill(text, COLUMNS, initial_indent="  ", subsequent_indent="  ")


def _option(option: dict[str, Any]) -> str:
    default = " (required)" if option["required"] else f" = {option['default']!r}"
    return f"{option['name']}: {option['type']}{default}"


def _learned(tensors: dict[str, list[int]] | None) -> str:
    if tensors is None:
        return "tensors whose shapes depend on its options"
    if not tensors:
        return "nothing"
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in tensors.items())
    return f"{shapes} (at width {WIDTH}, {HEADS} heads)"
