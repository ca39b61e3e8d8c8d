"""Names that users type: what is said where one is wrong."""

from __future__ import annotations

import pytest

from attentune.errors import SpecError
from attentune.mechanisms import attention


@pytest.mark.parametrize("name", ["sinusoidal", "learned"])
def test_positions_of_the_embeddings_are_told_apart(name: str) -> None:
    with pytest.raises(SpecError, match=f"position={name} is added to the embeddings"):
        attention(f"heads=2, position={name}")


def test_a_name_from_another_slot_says_where_it_belongs() -> None:
    with pytest.raises(SpecError, match="rotary belongs in position"):
        attention("heads=2, mask=rotary")
