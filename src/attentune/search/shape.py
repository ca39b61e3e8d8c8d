"""The shape of a model, which tuning may vary: its width, depth and number of heads."""

from __future__ import annotations

import re

from pydantic import Field

from attentune.errors import SpecError
from attentune.spec.value import Frozen

_SHAPE = re.compile(r"(\d+)x(\d+)/(\d+)")


class Shape(Frozen):
    """Width, depth and number of query heads of a model."""

    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    heads: int = Field(ge=1)

    def __str__(self) -> str:
        """`128x4/4`: width x depth / heads."""
        return f"{self.width}x{self.depth}/{self.heads}"

    @property
    def words(self) -> str:
        """`width 128, 4 layers, 4 heads`."""
        layers, heads = ("" if count == 1 else "s" for count in (self.depth, self.heads))
        return f"width {self.width}, {self.depth} layer{layers}, {self.heads} head{heads}"


def parse_shape(text: str) -> Shape:
    """`128x4/4` (width x depth / heads) as a value; SpecError for anything else."""
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise SpecError(f"a shape is width x depth / heads, such as 128x4/4, got {text!r}")
    return Shape(width=int(found[1]), depth=int(found[2]), heads=int(found[3]))
