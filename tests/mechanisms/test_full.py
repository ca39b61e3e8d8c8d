from __future__ import annotations

from attentune.mechanisms import attention
from attentune.mechanisms.full import Full
from kernels.attending import grid, operands, sizes, weights


def test_everything_is_seen() -> None:
    assert grid("full", 3) == ["xxx", "xxx", "xxx"]
    assert Full().lookahead is None
    assert not Full().needs_order


def test_every_key_gets_weight() -> None:
    spec = attention("heads=2")
    assert (weights(spec, *operands(sizes(spec), 4)) > 0).all()
