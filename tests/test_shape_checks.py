"""The checks that stand behind every test: what is annotated wrongly is refused, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from attentune.spec.positions import Positions
from shape_checks import MADE_CHECKED, checked, jaxtyped, unchecked

hook = jaxtyped(typechecker=checked)
SQUARE, WIDE = torch.zeros(2, 2), torch.zeros(2, 3)


@hook
def added(x: Float[Tensor, "B N"], y: Float[Tensor, "B N"]) -> Float[Tensor, "N B"]:
    return (x + y).mT


@hook
def misshapen(x: Float[Tensor, "B N"]) -> Float[Tensor, "N B"]:
    return x


@hook
def counted(names: list[str], times: int = 1) -> int:
    return len(names) * times if times else "none"  # type: ignore[return-value]


@hook
def rows(x: Float[Tensor, "B N"]) -> Iterator[Tensor]:
    yield from x


@hook
@dataclass
class Held:
    x: Float[Tensor, "B N"]
    y: Float[Tensor, "B N"]

    @classmethod
    @hook
    def twice(cls, x: Float[Tensor, "B N"]) -> Held:
        return cls(x, x)

    @property
    @hook
    def width(self) -> int:
        return str(self.x.shape[1])  # type: ignore[return-value]


WRONG: list[Callable[[], Any]] = [
    lambda: added(SQUARE, torch.zeros(2)),
    lambda: added(SQUARE, WIDE),
    lambda: added(SQUARE, y=SQUARE.long()),
    lambda: misshapen(WIDE),
    lambda: counted([1]),
    lambda: counted(["a"], 0),
    lambda: list(rows(torch.zeros(2))),
    lambda: Held(SQUARE, WIDE),
    lambda: Held.twice(torch.zeros(2)),
    lambda: Held.twice(SQUARE).width,
]


@pytest.mark.parametrize("call", WRONG)
def test_what_breaks_its_annotation_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_what_keeps_to_it_passes_and_each_call_has_axes_of_its_own() -> None:
    for x in (SQUARE, WIDE, WIDE.mT):
        assert added(x, x).shape == x.mT.shape
        assert Held.twice(x).x is x
    assert misshapen(SQUARE) is SQUARE
    assert counted(["a", "b"]) == 2
    assert len(list(rows(WIDE))) == 2


def test_unchecked_holds_for_one_call_alone() -> None:
    assert unchecked(misshapen)(WIDE) is WIDE
    with pytest.raises(ZeroDivisionError):
        unchecked(lambda: 1 / 0)()
    with pytest.raises(jaxtyping.TypeCheckError):
        misshapen(WIDE)


def test_a_function_inside_another_is_checked_the_first_times() -> None:
    def make() -> Callable[[Any], Any]:
        @hook
        def inner(x: Float[Tensor, "N N"]) -> Tensor:
            return x

        return inner

    made = [make() for _ in range(MADE_CHECKED + 1)]
    for inner in made[:-1]:
        with pytest.raises(jaxtyping.TypeCheckError):
            inner(WIDE)
    assert made[-1](WIDE) is WIDE


def test_the_package_is_checked(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--jaxtyping-packages"):
        pytest.skip("run with --jaxtyping-packages=attentune,shape_checks.checked, as `make tests` does")
    with pytest.raises(jaxtyping.TypeCheckError):
        Positions(index=torch.zeros(1, 2).long(), position=torch.zeros(1, 3).long())
