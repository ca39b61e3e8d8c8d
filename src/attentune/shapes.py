"""Tensor types with their shapes, checked while the tests run.

Axis letters: `B` batch, `H` query heads, `G` key/value heads, `Q` query length, `K` key length,
`D` head width, `V` value width, `E` model width, `T` tokens of a row.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor"]
