"""A small judge of JSON schemas: the keywords that our schemas use, and a refusal of any other."""

from __future__ import annotations

from typing import Any

TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}
ANNOTATIONS = {"$schema", "$defs", "title", "description", "default"}


def complaints(data: Any, schema: dict[str, Any]) -> list[str]:
    """What is wrong with `data`; empty where the schema accepts it."""
    return _judge(data, schema, schema, "$")


def _judge(data: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword in ANNOTATIONS:
            continue
        if keyword == "$ref":
            found += _judge(data, root["$defs"][rule.removeprefix("#/$defs/")], root, at)
        elif keyword == "anyOf":
            tries = [_judge(data, one, root, at) for one in rule]
            if all(tries):
                found.append(f"{at}: none of {len(tries)} choices fits: {tries}")
        elif keyword == "type":
            kind = TYPES[rule]
            if not isinstance(data, kind) or (isinstance(data, bool) and rule != "boolean"):
                found.append(f"{at}: {data!r} is no {rule}")
        elif keyword in ("const", "enum"):
            if data not in (rule if keyword == "enum" else [rule]):
                found.append(f"{at}: {data!r} is not {rule!r}")
        elif keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
            if isinstance(data, int | float):
                fits = {
                    "minimum": data >= rule,
                    "exclusiveMinimum": data > rule,
                    "maximum": data <= rule,
                    "exclusiveMaximum": data < rule,
                }
                found += [] if fits[keyword] else [f"{at}: {data!r} breaks {keyword} {rule}"]
        elif keyword == "minItems":
            found += [] if not isinstance(data, list) or len(data) >= rule else [f"{at}: too few"]
        elif keyword == "items":
            if isinstance(data, list):
                found += [text for i, one in enumerate(data) for text in _judge(one, rule, root, f"{at}[{i}]")]
        elif keyword == "properties":
            if isinstance(data, dict):
                found += [t for k, one in rule.items() if k in data for t in _judge(data[k], one, root, f"{at}.{k}")]
        elif keyword == "required":
            if isinstance(data, dict):
                found += [f"{at}.{name} is missing" for name in rule if name not in data]
        elif keyword == "additionalProperties":
            if isinstance(data, dict) and rule is False:
                found += [f"{at}.{name} is unknown" for name in data if name not in schema.get("properties", {})]
        else:
            raise AssertionError(f"the schema uses {keyword!r}, which this judge does not know")
    return found
