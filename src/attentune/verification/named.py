"""A rule and a function, registered so that mechanisms that hold a name have one to hold."""

from __future__ import annotations

from attentune.mechanisms import function, predicate
from attentune.shapes import Tensor

NAMES = ("verified_every_third", "verified_nearness")


@predicate.register(NAMES[0])
def _every_third(query: Tensor, key: Tensor) -> Tensor:
    return (query - key) % 3 == 0


@function.register(NAMES[1])
def _nearness(q: Tensor, k: Tensor) -> Tensor:
    return -(q - k).abs().sum(-1)
