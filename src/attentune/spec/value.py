"""Frozen values: the ground that every spec stands on."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from attentune.errors import SpecError, near


class Frozen(BaseModel):
    """An immutable, hashable, comparable value that refuses unknown fields.

    Errors are `SpecError`s of one line that name the field, the rule and the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, ser_json_inf_nan="constants")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise spec_error(error, type(self)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated like a new value."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changes})


def spec_error(error: ValidationError, owner: type[Frozen], prefix: str = "") -> SpecError:
    """The first of pydantic's complaints as one line in our words, with how many more there are."""
    problems = error.errors()
    # A misspelt name also leaves its field missing: the name tells more.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = ".".join(str(part) for part in first["loc"])
    kind = owner.model_fields.get("kind")
    name = kind.default if kind is not None and isinstance(kind.default, str) else owner.__name__
    where = f"{prefix}{name}.{path}" if path else f"{prefix}{name}"
    if first["type"] == "extra_forbidden":
        text = f"{where} is unknown; {near(str(first['loc'][-1]), owner.model_fields)}"
    elif first["type"] == "missing":
        text = f"{where} is required"
    else:
        message = first["msg"].removeprefix("Value error, ")
        rule = message if first["type"] == "value_error" else message[0].lower() + message[1:]
        given = first["input"]
        shown = repr(given)
        text = f"{where}: {rule}"
        if first["type"] != "value_error" and len(shown) < 80:
            text += f", got {shown}"
    if len(problems) > 1:
        text += f" (and {len(problems) - 1} more)"
    return SpecError(text)
