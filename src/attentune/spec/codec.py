"""Reading and writing specs: text form, plain data (JSON, TOML), and the schema for editors.

Every function receives the registry of mechanisms. Writing and reading back gives an equal value.
"""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, create_model

from attentune.errors import SpecError, near
from attentune.spec.attention import NEUTRAL, AttentionSpec
from attentune.spec.mechanism import Mechanism
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.spec.registry import Registry
from attentune.spec.slots import ATTENTION_SLOTS, SLOTS
from attentune.spec.text import SEVERAL, format_value, parse_slot, split
from attentune.spec.value import Frozen

SpecT = TypeVar("SpecT", bound=Frozen)
NOTHING = "none"


def parse_attention(text: str, registry: Registry) -> AttentionSpec:
    """`heads=8/2, position=rotary, mask=causal & window(256)` as a value."""
    found = split(text, tuple(ATTENTION_SLOTS))
    return _attention({slot: parse_slot(slot, node, registry) for slot, node in found.items()}, registry)


def parse_layer(text: str, registry: Registry) -> LayerSpec:
    """An attention's text form that may also say `branches=lstm + ...` and `cross=attention(heads=...)`."""
    found = split(text, (*ATTENTION_SLOTS, "branches", "cross"))
    branches = parse_slot("branches", found.pop("branches"), registry) if "branches" in found else ()
    cross: AttentionSpec | None = None
    if "cross" in found:
        node = found.pop("cross")
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "attention":
            raise SpecError(f"cross: write cross=attention(heads=8, ...), got {ast.unparse(node)!r}")
        arguments = ", ".join(ast.unparse(part) for part in (*node.args, *node.keywords))
        cross = parse_attention(arguments, registry)
    slots = {slot: parse_slot(slot, node, registry) for slot, node in found.items()}
    attention = None if branches and not slots else _attention(slots, registry)
    return LayerSpec(attention=attention, branches=branches, cross=cross)


def _attention(slots: dict[str, Any], registry: Registry) -> AttentionSpec:
    if "heads" not in slots:
        raise SpecError("an attention needs its heads: write heads=8, or heads=8/2 for 2 shared key/value heads")
    for slot, kind in NEUTRAL.items():
        if slots.get(slot) is None:
            slots[slot] = registry.find(slot, kind)()  # type: ignore[call-arg]
    return AttentionSpec(**slots)


def to_data(value: Any) -> Any:
    """Plain data for JSON. Mechanisms keep their `kind`; everything else keeps its fields."""
    if isinstance(value, BaseModel):
        return {name: to_data(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    return value


def mechanism_from_data(slot: str, data: Any, registry: Registry) -> Any:
    """One value of `slot` from its text form, its plain data, or itself."""
    if isinstance(data, Mechanism) or data is None:
        return data
    if isinstance(data, str | int) and not isinstance(data, bool):
        found = split(f"{slot}={data}", tuple(SLOTS))
        if len(found) > 1:
            raise SpecError(f"{slot}: expected one value, got {data!r}, which says {', '.join(found)}")
        return parse_slot(slot, found[slot], registry)
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise SpecError(f"{slot}: expected text or a table with kind = ..., got {data!r}")
    value = registry.find(slot, data["kind"])
    fields = {name: held for name, held in data.items() if name != "kind"}
    if slot == "mask":
        for name in ("mask", "masks"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(mechanism_from_data(slot, part, registry) for part in fields[name])
            elif name in fields:
                fields[name] = mechanism_from_data(slot, fields[name], registry)
    return value(**fields)


def _several(slot: str, data: list[Any] | tuple[Any, ...], registry: Registry) -> tuple[Any, ...]:
    """The values of a list; a text in it may itself write several."""
    values: list[Any] = []
    for part in data:
        value = mechanism_from_data(slot, part, registry)
        values.extend(value if isinstance(value, tuple) else (value,))
    return tuple(values)


def attention_from_data(data: Any, registry: Registry) -> AttentionSpec:
    """An attention from its text form, its plain data (each slot may be text), or itself."""
    if isinstance(data, AttentionSpec):
        return data
    if isinstance(data, str):
        return parse_attention(data, registry)
    _expect_table(data, "attention", ATTENTION_SLOTS)
    slots: dict[str, Any] = {}
    for slot, held in data.items():
        if slot in SEVERAL and isinstance(held, list | tuple):
            slots[slot] = _several(slot, held, registry)
        else:
            slots[slot] = mechanism_from_data(slot, held, registry)
    return _attention(slots, registry)


def layer_from_data(data: Any, registry: Registry) -> LayerSpec:
    """A layer from its text form, its plain data, an attention, or itself."""
    if isinstance(data, LayerSpec):
        return data
    if isinstance(data, AttentionSpec):
        return LayerSpec(attention=data)
    if isinstance(data, str):
        return parse_layer(data, registry)
    _expect_table(data, "layer", LayerSpec.model_fields)
    branches = data.get("branches", ())
    if isinstance(branches, list | tuple):
        branches = _several("branches", branches, registry)
    else:
        branches = mechanism_from_data("branches", branches, registry)
    cross = data.get("cross")
    attention = data.get("attention")
    if attention is None and not branches:
        raise SpecError("layer.attention is required where a layer has no branches")
    return LayerSpec(
        attention=None if attention is None else attention_from_data(attention, registry),
        branches=branches,
        cross=None if cross is None else attention_from_data(cross, registry),
    )


def model_from_data(data: Any, registry: Registry) -> ModelSpec:
    """A model from plain data; `layers` is a list of layers, or one, each as text or table."""
    if isinstance(data, ModelSpec):
        return data
    _expect_table(data, "model", ModelSpec.model_fields)
    fields = dict(data)
    layers = fields.get("layers", ())
    layers = layers if isinstance(layers, list | tuple) else (layers,)
    fields["layers"] = tuple(layer_from_data(layer, registry) for layer in layers)
    if fields.get("encoder") is not None:
        fields["encoder"] = model_from_data(fields["encoder"], registry)
    return ModelSpec(**{name: tuple(held) if name == "share" else held for name, held in fields.items()})


def _expect_table(data: Any, name: str, known: Any) -> None:
    if not isinstance(data, dict):
        raise SpecError(f"{name}: expected text or a table, got {data!r}")
    for key in data:
        if key not in known:
            raise SpecError(f"{name}.{key} is unknown; {near(str(key), known)}")


def from_data(cls: type[SpecT], data: Any, registry: Registry) -> SpecT:
    """A value of class `cls` from plain data."""
    readers: dict[type, Any] = {
        AttentionSpec: attention_from_data,
        LayerSpec: layer_from_data,
        ModelSpec: model_from_data,
    }
    if cls in readers:
        return readers[cls](data, registry)  # type: ignore[no-any-return]
    if not isinstance(data, dict):
        raise SpecError(f"{cls.__name__}: expected a table, got {data!r}")
    return cls(**_something(cls, data))


def _something(cls: type[BaseModel], data: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: a field that may be None, but is not by default, says `none`."""
    fields = cls.model_fields
    absent = [k for k, held in data.items() if held == NOTHING and k in fields and _default(cls, k) is not None]
    return {**data, **{k: None for k in absent if type(None) in get_args(fields[k].annotation)}}


def _default(cls: type[BaseModel], name: str) -> Any:
    return cls.model_fields[name].default


def to_json(value: Frozen) -> str:
    """JSON of the plain data, indented."""
    return json.dumps(to_data(value), indent=2, ensure_ascii=False, allow_nan=True) + "\n"


def from_json(cls: type[SpecT], text: str, registry: Registry) -> SpecT:
    """A value of class `cls` from JSON; `SpecError` with the place where it is malformed."""
    try:
        return from_data(cls, json.loads(text), registry)
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None


def to_toml(value: Frozen) -> str:
    """TOML with attentions and layers in their text form; what is None is left out."""
    return tomli_w.dumps(_toml(value), multiline_strings=False)


def _toml(value: Any) -> Any:
    if isinstance(value, AttentionSpec | LayerSpec):
        return str(value)
    if isinstance(value, Mechanism):
        return format_value(value)
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        if isinstance(value, ModelSpec) and len(value.layers) == 1:
            fields["layers"] = value.layers[0]
        nothing = {
            name: NOTHING for name, held in fields.items() if held is None and _default(type(value), name) is not None
        }
        return {name: _toml(held) for name, held in fields.items() if held is not None} | nothing
    if isinstance(value, tuple):
        return [_toml(item) for item in value]
    return value


def from_toml(cls: type[SpecT], text: str, registry: Registry) -> SpecT:
    """A value of class `cls` from TOML."""
    return from_data(cls, read_toml(text), registry)


def read_toml(text: str, source: str | Path = "") -> dict[str, Any]:
    """The tables of a TOML text; `SpecError` with the place where it is malformed."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source}: not TOML: {error}" if source else f"not TOML: {error}") from None


def json_schema(cls: type[Frozen], registry: Registry) -> dict[str, Any]:
    """JSON schema (2020-12) of the plain data that `from_data` accepts, for editors."""
    definitions: dict[str, Any] = {}
    for value in registry:
        definitions[f"{value.slot}.{value.model_fields['kind'].default}"] = value.model_json_schema()
    for slot in SLOTS:
        choices = [
            {"$ref": f"#/$defs/{slot}.{kind}"} for kind in registry.kinds(slot) if kind not in ("and", "or", "not")
        ]
        one: dict[str, Any] = {"anyOf": [{"type": "string", "description": f"text form of {slot}"}, *choices]}
        if slot == "heads":
            one["anyOf"].append({"type": "integer", "minimum": 1})
        if slot == "mask":
            one["anyOf"].append(
                {"type": "object", "properties": {"kind": {"enum": ["and", "or", "not"]}}, "required": ["kind"]}
            )
        definitions[slot] = one
    slots = {
        slot: {"anyOf": [{"$ref": f"#/$defs/{slot}"}, {"type": "array", "items": {"$ref": f"#/$defs/{slot}"}}]}
        if slot in SEVERAL
        else {"anyOf": [{"$ref": f"#/$defs/{slot}"}, {"type": "null"}]}
        for slot in ATTENTION_SLOTS
    }
    definitions["attention"] = {
        "anyOf": [
            {"type": "string", "description": "such as heads=8/2, position=rotary, mask=causal & window(256)"},
            {"type": "object", "properties": slots, "required": ["heads"], "additionalProperties": False},
        ]
    }
    layer = {
        "attention": {"$ref": "#/$defs/attention"},
        "branches": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/branches"}}]},
        "cross": {"anyOf": [{"$ref": "#/$defs/attention"}, {"type": "null"}]},
    }
    definitions["layer"] = {
        "anyOf": [
            {"type": "string", "description": "an attention's text form, with branches=... and cross=attention(...)"},
            {"type": "object", "properties": layer, "required": ["attention"], "additionalProperties": False},
        ]
    }
    if cls is AttentionSpec or cls is LayerSpec:
        body: dict[str, Any] = {"$ref": "#/$defs/" + ("attention" if cls is AttentionSpec else "layer")}
    else:
        body = _plain_schema(cls, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": cls.__name__,
        **body,
        "$defs": definitions,
    }


def _plain_schema(cls: type[Frozen], definitions: dict[str, Any]) -> dict[str, Any]:
    """Pydantic's schema of `cls`, with layers read as this module reads them."""
    properties: dict[str, Any] = {}
    required = []
    for name, field in cls.model_fields.items():
        if field.is_required():
            required.append(name)
        inner = [arg for arg in (field.annotation, *get_args(field.annotation)) if isinstance(arg, type)]
        nested = next((arg for arg in inner if issubclass(arg, Frozen)), None)
        if nested is LayerSpec:
            one = {"$ref": "#/$defs/layer"}
            properties[name] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
        elif nested is not None:
            if nested.__name__ not in definitions:
                definitions[nested.__name__] = {}  # known by name while it is made: a model may hold a model
                definitions[nested.__name__] = _plain_schema(nested, definitions)
            one = {"$ref": f"#/$defs/{nested.__name__}"}
            properties[name] = {"anyOf": [one, {"type": "null"}]} if type(None) in inner else one
        else:
            properties[name] = _field_schema(cls, name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _field_schema(cls: type[Frozen], name: str) -> Any:
    field = cls.model_fields[name]
    model = create_model("_", **{name: (field.annotation, field)})  # type: ignore[call-overload]
    return model.model_json_schema(by_alias=False)["properties"][name]
