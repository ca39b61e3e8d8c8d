"""`forward`: attention by the compiled core, from typed values."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

import torch

from attentune.errors import KernelError, near
from attentune.kernels.native.operators import forward as core_forward
from attentune.kernels.native.operators import statistics
from attentune.kernels.native.problem import BY_DISTANCE, FORMS, KINDS, SIZE
from attentune.shapes import Float, Int, Tensor
from attentune.spec.score_steps import AddByDistance, AddByQuery, LogAddExpByDistance, MultiplyByQuery, SoftCap, Step

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
STATISTICS = ("column_mass", "entropy", "top_k", "lse")


@runtime_checkable
class TileTable(Protocol):
    """What is read of `attentune.kernels.tile_table.TileTable`."""

    @property
    def start(self) -> Int[Tensor, "rows query_tiles_and_1"]:
        """Where the tiles of each query tile begin."""

    @property
    def key_tile(self) -> Int[Tensor, "tiles"]:
        """Their key tiles."""

    @property
    def pattern(self) -> Int[Tensor, "tiles"]:
        """What each shows: -1 for all, or a row of `patterns`."""

    @property
    def patterns(self) -> Int[Tensor, "distinct 64"]:
        """Bit j of word i: query i sees key j."""


@dataclass(frozen=True)
class NativeResult:
    """What the core computed.

    `lse` counts the extra logit, `key_lse` is that of the visible keys alone; weights that are no softmax have one only
    where it was wanted (NaN otherwise). `top_k` holds weights and indices of keys in descending order, weight 0 where
    fewer keys are seen. Statistics are of the weights before dropout; None where not wanted.
    """

    output: Float[Tensor, "B H Q V"]
    lse: Float[Tensor, "B H Q"]
    key_lse: Float[Tensor, "B H Q"]
    column_mass: Float[Tensor, "B H K"] | None = None
    entropy: Float[Tensor, "B H Q"] | None = None
    top_k: tuple[Float[Tensor, "B H Q top"], Int[Tensor, "B H Q top"]] | None = None


def forward(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B G K D"],
    v: Float[Tensor, "B G K V"],
    *,
    scale: float,
    table: TileTable,
    query_position: Int[Tensor, "rows Q"],
    key_position: Int[Tensor, "rows K"],
    steps: Sequence[Step] = (),
    extra_logit: Float[Tensor, "H"] | None = None,
    kind: str = "softmax",
    dropout: float = 0.0,
    seed: int | Int[Tensor, ""] = 0,
    wanted: Set[str] = frozenset(),
    top: int = 8,
    known: tuple[Float[Tensor, "B H Q V"], Float[Tensor, "B H Q"]] | None = None,
) -> NativeResult:
    """o = sum over the visible keys of w(s) v, where s = scale q.k after `steps`, and w is softmax, sigmoid or relu2.

    Differentiable in q, k, v, the tensors of the steps and the extra logit, through the output and through lse of a
    softmax; statistics have no gradient. Strides are free but for the last axis; bfloat16 and float16 are computed in
    float32. `dropout` drops weights by a hash of `seed` and the places of query and key. `known`: output and key_lse of
    an earlier run of the same, to be differentiated without computing them again. Raises KernelError where sizes,
    types or the table do not fit together.
    """
    _check(q, k, v, table, query_position, key_position, steps, extra_logit)
    for name, all_, value in (("kind", KINDS, {kind}), ("wanted", STATISTICS, wanted)):
        for given in value:
            if given not in all_:
                raise KernelError(f"blocked: {name} {given!r} is unknown; {near(given, all_)}")
    if not 0 <= dropout <= 1:
        raise KernelError(f"blocked: dropout must lie between 0 and 1, got {dropout}")
    forms, caps, values = _lowered(steps)
    if isinstance(seed, int):
        seed = torch.tensor(seed)
    number = KINDS.index(kind)
    parts = [table.start, table.key_tile, table.pattern, table.patterns]
    places = (query_position, key_position)
    rest = (seed, scale, forms, caps, number, dropout)
    output, key_lse = core_forward(q, k, v, values, extra_logit, parts, *places, *rest, known=known)
    asked = " ".join(sorted(wanted if kind != "softmax" else wanted - {"lse"}))
    mass = entropy = best = None
    if asked:
        top = min(top, k.shape[2])
        mass, entropy, weight, key, own = statistics(
            key_lse, asked, top, q, k, values, extra_logit, parts, *places, scale, forms, caps, number
        )
        key_lse = own if "lse" in asked else key_lse
        mass = mass if "column_mass" in asked else None
        entropy = entropy if "entropy" in asked else None
        best = (weight, key) if "top_k" in asked else None
    lse = key_lse if extra_logit is None else torch.logaddexp(key_lse, extra_logit.to(key_lse.dtype)[:, None])
    return NativeResult(output, lse, key_lse, mass, entropy, best)


def _lowered(steps: Sequence[Step]) -> tuple[list[int], list[float], list[Tensor]]:
    """Kind, constant and first of each step; the caps; the tensors."""
    forms: list[int] = []
    caps: list[float] = []
    values: list[Tensor] = []
    for step in steps:
        constant, first = 0, 0
        match step:
            case AddByDistance():
                first = step.first
                values.append(step.table)
            case LogAddExpByDistance():
                constant, first = int(step.constant), step.first
                values.append(step.table)
            case SoftCap():
                caps.append(step.cap)
            case MultiplyByQuery():
                values.append(step.factor)
            case AddByQuery():
                values.append(step.term)
        forms += [FORMS.index(type(step).__name__), constant, first]
    return forms, caps, values


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: TileTable,
    query_position: Tensor,
    key_position: Tensor,
    steps: Sequence[Step],
    extra_logit: Tensor | None,
) -> None:
    """The core trusts what it is given; whatever would let it read astray is refused here."""
    (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    if k.shape != (batch, groups, keys, width) or v.shape[:3] != (batch, groups, keys):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise KernelError(f"blocked: q, k and v must be [B H Q D], [B G K D] and [B G K V], got {shapes}")
    if groups == 0 or heads % groups:
        raise KernelError(f"blocked: {heads} heads do not share {groups} key and value heads evenly")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise KernelError(f"blocked: q, k and v must have one floating type, got {q.dtype}, {k.dtype} and {v.dtype}")
    if any(x.device.type != "cpu" for x in (q, k, v)):
        raise KernelError(f"blocked: the compiled core runs on CPUs, got tensors on {q.device}")
    rows, tiles = table.start.shape[0], ceil(queries / SIZE)
    if rows not in (1, batch) or table.start.shape[1] != tiles + 1:
        raise KernelError(
            f"blocked: the table has {tuple(table.start.shape)} starts, needs [1 or {batch}, {tiles + 1}]"
        )
    for name, position, length in (("query", query_position, queries), ("key", key_position, keys)):
        if position.shape[0] not in (1, batch) or position.shape[1] != length:
            raise KernelError(
                f"blocked: {name} positions must be [1 or {batch}, {length}], got {tuple(position.shape)}"
            )
    if query_position.shape[0] != key_position.shape[0]:
        raise KernelError("blocked: query and key positions must have the same number of rows")
    for step in steps:
        if not isinstance(step, SoftCap):
            _check_step(step, batch, heads, queries)
    if extra_logit is not None and extra_logit.shape != (heads,):
        raise KernelError(f"blocked: the extra logit must be [{heads}], got {tuple(extra_logit.shape)}")


def _check_step(step: Step, batch: int, heads: int, queries: int) -> None:
    name = type(step).__name__
    if FORMS.index(name) in BY_DISTANCE:
        assert isinstance(step, AddByDistance | LogAddExpByDistance)
        if step.table.dim() == 2 and step.table.shape[0] in (1, heads) and step.table.shape[1]:
            return
        raise KernelError(f"blocked: the table of {name} must be [1 or {heads}, R], got {tuple(step.table.shape)}")
    value = step.factor if isinstance(step, MultiplyByQuery) else getattr(step, "term")  # noqa: B009
    good = value.dim() == 3 and value.shape[0] in (1, batch) and value.shape[1] in (1, heads)
    if not good or value.shape[2] != queries:
        raise KernelError(f"blocked: {name} needs [1 or {batch}, 1 or {heads}, {queries}], got {tuple(value.shape)}")
