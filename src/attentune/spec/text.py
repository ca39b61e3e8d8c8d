"""The short text form: `heads=8/2, position=rotary, mask=causal & window(256)`.

The grammar is that of Python's call arguments, parsed and never evaluated. `name(1, x=2)` is a value
and its fields, `8/2` are 8 query heads that share 2 key/value heads, `&`, `|`, `~` compose masks and
`+` lists the values of a slot that holds several.
"""

from __future__ import annotations

import ast
from typing import Any

from pydantic_core import PydanticUndefined

from attentune.errors import SpecError, near
from attentune.spec.masks import And, Mask, Not, Or
from attentune.spec.mechanism import Mechanism
from attentune.spec.registry import Registry
from attentune.spec.value import Frozen

SEVERAL = ("scores", "combine", "branches")  # slots that hold a tuple


def split(text: str, slots: tuple[str, ...]) -> dict[str, ast.expr]:
    """The slots that `text` names, each with its expression."""
    try:
        call = ast.parse(f"_({text})", mode="eval").body
    except SyntaxError as error:
        column = max((error.offset or 3) - 3, 0)
        raise SpecError(f"cannot read {text!r} at character {column + 1}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SpecError(f"cannot read {text!r}: {error}") from None
    if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise SpecError(f"cannot read {text!r}: write slot=value, slot=value; slots: {', '.join(slots)}")
    found: dict[str, ast.expr] = {}
    for keyword in call.keywords:
        name = str(keyword.arg)
        if name not in slots:
            raise SpecError(f"unknown slot {name!r}; {near(name, slots)}")
        if name in found:
            raise SpecError(f"slot {name!r} is given twice")
        found[name] = keyword.value
    return found


def read_call(text: str, what: str, *, example: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a `what` in its text form: `name`, or `name(option=value, ...)`.

    Values are numbers, texts, `true`, `false`, `none`, or names, which are read as texts.

    Raises:
        SpecError: `text` is none of these; `example` is shown then.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if missing := text.count("(") - text.count(")"):
            bracket = "a closing bracket ')'" if missing > 0 else "an opening bracket '('"
            raise SpecError(f"cannot read {what} {text!r}: {bracket} is missing, as in {example}") from None
        raise SpecError(f"cannot read {what} {text!r}: write a name, or a name with options: {example}") from None
    call = node if isinstance(node, ast.Call) else None
    name = call.func if call is not None else node
    if not isinstance(name, ast.Name | ast.BinOp):
        raise SpecError(f"cannot read {what} {text!r}: write a name, or a name with options: {example}")
    options: dict[str, Any] = {}
    if call is not None:
        if call.args:
            raise SpecError(f"{what} {text!r}: say which option {ast.unparse(call.args[0])} is, as in {example}")
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in options:
                raise SpecError(f"{what} {text!r}: option {keyword.arg!r} is given twice")
            value = _literal(f"{what} option {keyword.arg}", keyword.value)
            options[keyword.arg] = tuple(value) if isinstance(value, list) else value
    return _name(what, name), options


def parse_slot(slot: str, node: ast.expr, registry: Registry) -> Any:
    """The value, or tuple of values, that `node` writes for `slot`; `none` is None or the empty tuple."""
    named = isinstance(node, ast.Name) and node.id.lower() == "none"
    if named or (isinstance(node, ast.Constant) and node.value is None):
        return () if slot in SEVERAL else None
    if slot in SEVERAL:
        return tuple(_parse(slot, part, registry) for part in _sum(node))
    return _parse(slot, node, registry)


def _sum(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_sum(node.left), *_sum(node.right)]
    return [node]


def _parse(slot: str, node: ast.expr, registry: Registry) -> Mechanism:
    if slot == "mask":
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            left, right = _parse(slot, node.left, registry), _parse(slot, node.right, registry)
            assert isinstance(left, Mask) and isinstance(right, Mask)
            return left & right if isinstance(node.op, ast.BitAnd) else left | right
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            inner = _parse(slot, node.operand, registry)
            assert isinstance(inner, Mask)
            return ~inner
    if slot == "heads" and (numbers := _heads(node)) is not None:
        if len(numbers) == 1:
            return registry.find(slot, "multi_head")(heads=numbers[0])  # type: ignore[call-arg]
        return registry.find(slot, "grouped")(heads=numbers[0], groups=numbers[1])  # type: ignore[call-arg]
    if isinstance(node, ast.Call):
        value = registry.find(slot, _name(slot, node.func))
        return value(**_arguments(slot, value, node))
    return registry.find(slot, _name(slot, node))()  # type: ignore[call-arg]


def _heads(node: ast.expr) -> tuple[int, ...] | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return (node.value,)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = _heads(node.left), _heads(node.right)
        if all(part is not None and len(part) == 1 for part in parts):
            return parts[0] + parts[1]  # type: ignore[operator]
    return None


def _name(slot: str, node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):  # softmax-off-by-one
        return f"{_name(slot, node.left)}_{_name(slot, node.right)}"
    raise SpecError(f"{slot}: expected a name such as those of `attentune mechanisms`, got {ast.unparse(node)!r}")


def _arguments(slot: str, value: type[Frozen], node: ast.Call) -> dict[str, Any]:
    fields = _fields(value)
    if len(node.args) > len(fields):
        raise SpecError(f"{slot}={ast.unparse(node)}: at most {len(fields)} fields ({', '.join(fields)})")
    given = dict(zip(fields, node.args, strict=False))
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in given:
            raise SpecError(f"{slot}={ast.unparse(node)}: field {keyword.arg!r} is given twice")
        given[keyword.arg] = keyword.value
    return {name: _literal(slot, argument) for name, argument in given.items()}


def _literal(slot: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        word = node.id
        return {"true": True, "false": False, "none": None, "inf": float("inf")}.get(word.lower(), word)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise SpecError(f"{slot}: expected a number, a name or text, got {ast.unparse(node)!r}") from None


def format_value(value: Mechanism) -> str:
    """The text form of one value: its name, its required fields by place, the others where not the default."""
    if isinstance(value, And | Or):
        sign = " & " if isinstance(value, And) else " | "
        loose = Or if isinstance(value, And) else And
        return sign.join(
            f"({format_value(m)})" if isinstance(m, loose | type(value)) else format_value(m) for m in value.masks
        )
    if isinstance(value, Not):
        inner = format_value(value.mask)
        return f"~({inner})" if isinstance(value.mask, And | Or) else f"~{inner}"
    fields = {name: getattr(value, name) for name in type(value).model_fields if name != "kind"}
    if value.kind == "multi_head" and list(_changed(value)) == ["heads"]:
        return str(fields["heads"])
    if value.kind == "grouped" and list(_changed(value)) == ["heads", "groups"]:
        return f"{fields['heads']}/{fields['groups']}"
    parts, by_place = [], True
    for name, held in _changed(value).items():
        by_place = by_place and type(value).model_fields[name].is_required()
        parts.append(_format(held) if by_place else f"{name}={_format(held)}")
    return f"{value.kind}({', '.join(parts)})" if parts else value.kind


def _changed(value: Mechanism) -> dict[str, Any]:
    kept = {}
    for name in _fields(type(value)):
        held, default = getattr(value, name), type(value).model_fields[name].default
        if default is PydanticUndefined or held != default:
            kept[name] = held
    return kept


def _fields(value: type[Frozen]) -> list[str]:
    """The fields that a text may give, required ones first: what several values share may have a default."""
    names = [name for name in value.model_fields if name != "kind"]
    return sorted(names, key=lambda name: not value.model_fields[name].is_required())


def _format(held: Any) -> str:
    if isinstance(held, bool) or held is None:
        return str(held).lower()
    if isinstance(held, str) and held.isidentifier() and held.lower() not in ("true", "false", "none", "inf"):
        return held
    return repr(held)
