"""What a kernel is asked, what it is given, what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, Protocol, get_args, runtime_checkable

import torch

from attentune.errors import KernelError, near
from attentune.kernels.layout import Layout, LayoutKind
from attentune.shapes import Float, Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Dims, Params

SlotParams = Mapping[str, Sequence[Params]]  # slot -> the parameters of each of its values
Wanted = Literal["output", "lse", "weights", "column_mass", "entropy", "top_k"]
SHORT, MANY, FEW = (
    64,
    16,
    4,
)  # tokens of a row that is one tile, rows that make what each costs count, and queries of a step
WANTED: tuple[str, ...] = get_args(Wanted)


@dataclass(frozen=True)
class Request:
    """What is to be computed, without any tensor: what a plan is made for."""

    spec: AttentionSpec
    dims: Dims
    batch: int
    query_length: int
    key_length: int
    layout: LayoutKind = LayoutKind.PLAIN
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    needs_grad: bool = False
    dropout: float = 0.0
    wanted: frozenset[str] = frozenset({"output"})

    def __post_init__(self) -> None:
        for name in self.wanted:
            if name not in WANTED:
                raise KernelError(f"wanted output {name!r} is unknown; {near(name, WANTED)}")

    @property
    def short_rows(self) -> bool:
        """Whether it is many short rows on a CPU, as sentences are: what a row and head cost anyhow then decides."""
        return self.device == "cpu" and are_short_rows(self.batch, self.query_length, self.key_length)

    @property
    def pairs(self) -> int:
        """Query-key pairs of all heads, hidden ones included."""
        return self.batch * self.dims.heads * self.query_length * self.key_length

    @property
    def query_elements(self) -> int:
        """Numbers in q and the output."""
        return prod((self.batch, self.query_length, self.dims.heads, self.dims.head_width + self.dims.value_width))

    @property
    def key_elements(self) -> int:
        """Numbers in k and v."""
        return prod((self.batch, self.key_length, self.dims.groups, self.dims.head_width + self.dims.value_width))

    @property
    def operand_elements(self) -> int:
        """Numbers in q, k, v and the output."""
        return self.query_elements + self.key_elements


def are_short_rows(batch: int, queries: int, keys: int) -> bool:
    """Many rows of one tile each, and of more queries than a step of decoding."""
    return batch >= MANY and FEW < queries <= SHORT and keys <= SHORT


@dataclass(frozen=True)
class Reason:
    """Why a kernel cannot honour a request: which part of it, and the rule."""

    part: str
    rule: str

    def __str__(self) -> str:
        return f"{self.part}: {self.rule}"


@dataclass(frozen=True)
class Cost:
    """A prediction: arithmetic operations, and bytes that move to and from memory.

    `path` names the code that does them: a kernel may have several, each with a speed of its own. It pays its overhead
    once for each of `pieces`.
    """

    operations: float
    bytes: float
    path: str
    pieces: int = 1


def of_short_rows(cost: Cost, request: Request) -> Cost:
    """The same path's cost for many short rows: each row and head is a piece, and all pairs are computed."""
    d = request.dims
    operations = 2.0 * request.pairs * (d.head_width + d.value_width) * (3.5 if request.needs_grad else 1)
    return Cost(operations, cost.bytes, f"{cost.path}_short", request.batch * d.heads)


@dataclass
class Call:
    """The tensors of one attention, after projection, rotation and carry."""

    spec: AttentionSpec
    dims: Dims
    params: SlotParams
    q: Float[Tensor, "B H Q D2"]
    k: Float[Tensor, "B G K D2"]
    v: Float[Tensor, "B G K V"]
    layout: Layout
    dropout: float = 0.0
    wanted: frozenset[str] = frozenset({"output"})
    top: int = 8  # keys a query for the wanted output `top_k`
    known: Result | None = None  # what the same call gave before: it is differentiated without computing that again


@dataclass
class Result:
    """The output, and what else was wanted.

    `lse` [B H Q], `weights` [B H Q K], `column_mass` [B H K], `entropy` [B H Q], `top_k`: weights and key indices, both
    [B H Q top].
    """

    output: Float[Tensor, "B H Q V"]
    extra: dict[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)


@runtime_checkable
class Kernel(Protocol):
    """One way to compute attention."""

    name: str

    def supports(self, request: Request) -> tuple[Reason, ...]:
        """Why not; empty where it can."""

    def cost(self, request: Request) -> Cost:
        """What it would cost."""

    def run(self, call: Call) -> Result:
        """Compute. Only called where `supports` gave no reason."""
