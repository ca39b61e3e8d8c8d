"""A mechanism: a value in one slot of an attention, the stage it acts at, and the parameters it declares."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from attentune.shapes import Tensor
from attentune.spec.value import Frozen

Params = Mapping[str, Tensor]  # the parameters of one value, by the names it declared


class Stage(StrEnum):
    """Where in the dataflow a value acts, in order."""

    OPERANDS = "operands"
    SIMILARITY = "similarity"
    PRE_MIX = "pre-mix"
    SCORES = "scores"
    VISIBLE = "visible"
    NORMALIZE = "normalise"
    POST_MIX = "post-mix"
    COMBINE = "combine"
    BESIDE = "beside attention"


class ScoreForm(StrEnum):
    """What a kernel must be able to do to compute a score value; kernels read only this."""

    ELEMENTWISE = "elementwise"  # from (s, query position, key position, head) alone
    BILINEAR = "bilinear"  # extra columns on q and k
    ROW_GLOBAL = "row-global"  # needs the whole row
    CROSS_HEAD = "cross-head"  # needs all heads
    RELATIVE = "relative"  # from q (and k) and the distance between the two positions


@dataclass(frozen=True)
class Dims:
    """The sizes a value may need to declare its parameters."""

    width: int  # E
    heads: int  # H
    groups: int  # G
    head_width: int  # D
    value_width: int  # V
    source_width: int  # E of the keys' side; differs from `width` in cross-attention only
    depth: int = 1
    bias: bool = False
    cross: bool = False
    layer: int = 0  # which of the model's layers, counted from 0


@dataclass(frozen=True)
class Parameter:
    """One tensor that the layer shall own: its shape, how it is filled at first, whether it decays."""

    shape: tuple[int, ...]
    init: Callable[[Tensor], object]
    weight_decay: bool = False


def normal(std: float) -> Callable[[Tensor], object]:
    """Fills a tensor with draws from a normal distribution around 0."""
    return lambda tensor: tensor.normal_(0.0, std)


def constant(value: float) -> Callable[[Tensor], object]:
    """Fills a tensor with `value`."""
    return lambda tensor: tensor.fill_(value)


class Mechanism(Frozen, ABC):
    """A value in one slot. `kind` is its name: the name of its file, which users type."""

    slot: ClassVar[str]
    stage: ClassVar[Stage]
    needs_order: ClassVar[bool] = False  # compares positions of queries with positions of keys
    kind: str

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        """What the layer must own for this value; nothing unless the value says otherwise."""
        del dims
        return {}

    def losses(self, params: Params, dims: Dims) -> dict[str, Tensor]:
        """Scalars to add to the training loss, already weighted, such as the penalty of an adaptive span."""
        del params, dims
        return {}
