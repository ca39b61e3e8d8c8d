"""From tensors to the structures of plain numbers and addresses that the core reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attentune.kernels.native.library import Operand, Problem, Step
from attentune.shapes import Float, Int, Tensor

KINDS = ("softmax", "sigmoid", "relu2")  # as WeightKind of source/problem.h
FORMS = ("AddByDistance", "LogAddExpByDistance", "SoftCap", "MultiplyByQuery", "AddByQuery")  # as StepKind
SIZE = 64  # queries and keys of a tile, TILE of source/tiles.h
SOFT_CAP = FORMS.index("SoftCap")
BY_DISTANCE = (0, 1)


@dataclass(frozen=True)
class Given:
    """What all functions of the core are given.

    `steps` holds kind, constant and first of each step, one behind the other;
    `table` holds start, key_tile, pattern and patterns; `values` a tensor of each step but the soft caps.
    """

    q: Float[Tensor, "B H Q D"]
    k: Float[Tensor, "B G K D"]
    v: Float[Tensor, "B G K V"]
    values: Sequence[Tensor]
    extra_logit: Float[Tensor, "H"] | None
    table: Sequence[Tensor]
    query_position: Int[Tensor, "rows Q"]
    key_position: Int[Tensor, "rows K"]
    seed: Int[Tensor, ""]
    scale: float
    steps: Sequence[int]
    caps: Sequence[float]
    kind: int
    dropout: float


def exact(dtype: torch.dtype) -> torch.dtype:
    """The type that the core computes in."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def head_last(batch: int, heads: int, tokens: int, width: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty [batch heads tokens width] that lies in memory as [batch tokens heads width], as models read it."""
    return like.new_empty(batch, tokens, heads, width, dtype=dtype).transpose(1, 2)


def stored(q: Tensor, k: Tensor) -> torch.dtype:
    """The type in which the core reads and writes this call's tensors: their own where rows fit one tile."""
    direct = q.dtype is torch.bfloat16 and max(q.shape[2], k.shape[2]) <= SIZE
    return q.dtype if direct else exact(q.dtype)


def readable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype` with contiguous rows; itself where it already is."""
    x = x.detach().to(dtype)
    return x if x.shape[-1] <= 1 or x.stride(-1) == 1 else x.contiguous()


def operand(x: Tensor) -> Operand:
    """The address and strides of [B H T] or [B H T width]."""
    return Operand(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))


class Assembled:
    """A problem, and the tensors that must live as long as it is used."""

    def __init__(self, given: Given, dtype: torch.dtype | None = None) -> None:
        """`dtype`: how q, k and v are read, if not in the type that is computed in."""
        own, dtype = dtype or exact(given.q.dtype), exact(given.q.dtype)
        self.q, self.k, self.v = (readable(x, own) for x in (given.q, given.k, given.v))
        self.values = [value.detach().to(dtype).contiguous() for value in given.values]
        self.extra_logit = None if given.extra_logit is None else given.extra_logit.detach().to(dtype).contiguous()
        self.table = [part.contiguous() for part in given.table]
        self.positions = [x.to(torch.int32).contiguous() for x in (given.query_position, given.key_position)]
        self.steps = self._steps(given)
        start, key_tile, pattern, patterns = self.table
        self.problem = Problem(
            batch=self.q.shape[0],
            heads=self.q.shape[1],
            groups=self.k.shape[1],
            queries=self.q.shape[2],
            keys=self.k.shape[2],
            head_width=self.q.shape[3],
            value_width=self.v.shape[3],
            q=operand(self.q),
            k=operand(self.k),
            v=operand(self.v),
            scale=given.scale,
            kind=given.kind,
            steps=len(self.steps),
            table_rows=start.shape[0],
            position_rows=self.positions[0].shape[0],
            step=self.steps,
            extra_logit=None if self.extra_logit is None else self.extra_logit.data_ptr(),
            start=start.data_ptr(),
            key_tile=key_tile.data_ptr(),
            pattern=pattern.data_ptr(),
            patterns=patterns.data_ptr(),
            query_position=self.positions[0].data_ptr(),
            key_position=self.positions[1].data_ptr(),
            dropout=given.dropout,
            seed=int(given.seed.item()) & 0xFFFFFFFFFFFFFFFF,
            threads=torch.get_num_threads(),
            segments=1,
            doubles=dtype is torch.float64,
            bfloat16=own is torch.bfloat16,
        )

    def _steps(self, given: Given) -> ctypes.Array[Step]:
        values, caps = iter(self.values), iter(given.caps)
        made = []
        for n in range(0, len(given.steps), 3):
            kind, constant, first = given.steps[n : n + 3]
            if kind == SOFT_CAP:
                made.append(Step(kind=kind, cap=next(caps)))
                continue
            value = next(values)
            head = 0 if value.shape[-2] == 1 else value.stride(-2)
            batch = 0 if kind in BY_DISTANCE or value.shape[0] == 1 else value.stride(0)
            length = value.shape[-1]
            made.append(Step(kind, constant, first, length, batch, head, 0.0, value.data_ptr(), None))
        return (Step * len(made))(*made)

    def collect(self, steps: Sequence[int], wanted: Sequence[bool]) -> list[Tensor]:
        """Zeros for the gradients of the values that are wanted, known to the problem; empty for the others."""
        p, made, place = self.problem, [], 0
        for value, want in zip(self.values, wanted, strict=True):
            while steps[3 * place] == SOFT_CAP:
                place += 1
            if not want:
                buffer = value.new_empty(0)
            elif steps[3 * place] in BY_DISTANCE:
                shape = (p.batch * p.segments, p.heads, value.shape[-1])
                buffer = value.new_zeros(shape, dtype=torch.float64)
            else:
                buffer = value.new_zeros(p.batch, p.heads, p.queries)
            self.steps[place].gradient = buffer.data_ptr() if want else None
            made.append(buffer)
            place += 1
        return made


def reduced(buffer: Tensor, value: Tensor) -> Tensor:
    """The gradient of `value` from its buffer [.. H ..]: sums over the rows and heads that share a number."""
    if value.dim() == 2:
        buffer = buffer.sum(0)
    for axis, size in enumerate(value.shape):
        if size == 1 and buffer.shape[axis] != 1:
            buffer = buffer.sum(axis, keepdim=True)
    return buffer.to(value.dtype)
