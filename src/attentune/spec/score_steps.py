"""What a fused kernel does to each score, step by step, as tensors: the few forms that many mechanisms come down to.

A kernel that never stores scores cannot call a mechanism for each of them. A mechanism therefore says of itself which
of these forms it has (`Bias.step`, `ElementwiseScore.step`); the numbers come from its own mathematics, evaluated once
for each distance or each query, so that gradients reach its parameters through these tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from attentune.shapes import Float, Tensor

__all__ = ["AddByDistance", "AddByQuery", "LogAddExpByDistance", "MultiplyByQuery", "SoftCap", "Step", "StepForm"]


class StepForm(StrEnum):
    """Which function of a score s a mechanism is, where i and j are the positions of query and key."""

    ADD_BY_DISTANCE = "s + b(h, i - j)"
    LOG_ADD_EXP_BY_DISTANCE = "log(exp s + exp b(h, i - j))"
    LOG_ADD_EXP_BY_HEAD = "log(exp s + exp b(h))"
    MULTIPLY_BY_QUERY = "s c(h, i)"


@dataclass(frozen=True)
class AddByDistance:
    """s + table[h, (i - j) - first]; the table holds every distance that occurs, for each head or for all."""

    table: Float[Tensor, "heads distances"]
    first: int


@dataclass(frozen=True)
class LogAddExpByDistance:
    """log(exp s + exp table[h, (i - j) - first]); where `constant`, one number of each head for all distances."""

    table: Float[Tensor, "heads distances"]
    first: int
    constant: bool = False


@dataclass(frozen=True)
class SoftCap:
    """cap tanh(s / cap)."""

    cap: float


@dataclass(frozen=True)
class MultiplyByQuery:
    """s factor, with a factor of each row, head and query; rows and heads may be 1 and stand for all."""

    factor: Float[Tensor, "rows heads Q"]


@dataclass(frozen=True)
class AddByQuery:
    """s + term, with a term of each row, head and query; rows and heads may be 1 and stand for all."""

    term: Float[Tensor, "rows heads Q"]


Step: TypeAlias = AddByDistance | LogAddExpByDistance | SoftCap | MultiplyByQuery | AddByQuery
