"""Operands of one call of the core, the truth in float64, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from attentune.kernels import native
from attentune.spec.score_steps import AddByDistance, AddByQuery, LogAddExpByDistance, MultiplyByQuery, SoftCap, Step
from kernels.native.dense import dense_attention, table_of

needs_core = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


@dataclass(frozen=True)
class Case:
    """Sizes and what is asked. `mask` is made from distances (query minus key) [rows Q K]."""

    batch: int = 2
    heads: int = 2
    groups: int = 2
    queries: int = 70
    keys: int = 70
    width: int = 16
    value_width: int = 16
    window: int = 10**6
    steps: tuple[str, ...] = ()
    extra: bool = False
    kind: str = "softmax"
    dtype: torch.dtype = torch.float32
    visible: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)
    positions: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    def made(self) -> Made:
        """Its tensors, in float64."""
        b, h, g, q, k = self.batch, self.heads, self.groups, self.queries, self.keys
        query, key = (torch.arange(q) + k - q)[None], torch.arange(k)[None]
        distance = query[:, :, None] - key[:, None]
        visible = (distance >= 0) & (distance < self.window) if self.visible is None else self.visible(distance)
        if self.positions is not None:
            query, key = self.positions(query), self.positions(key)
        least = int(query.min()) - int(key.max()) if q and k else 0
        reach = int(query.max()) - int(key.min()) - least + 1 if q and k else 1

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64).to(self.dtype).double()

        known: dict[str, Callable[[], Step]] = {
            "add": lambda: AddByDistance(random(h, reach), least),
            "shared": lambda: AddByDistance(random(1, reach), least),
            "log": lambda: LogAddExpByDistance(random(h, reach), least),
            "constant": lambda: LogAddExpByDistance(random(h, 1), 0, True),
            "cap": lambda: SoftCap(2.0),
            "multiply": lambda: MultiplyByQuery(random(b, 1, q)),
            "multiply_all": lambda: MultiplyByQuery(random(1, h, q)),
            "term": lambda: AddByQuery(random(b, h, q)),
            "term_shared": lambda: AddByQuery(random(1, 1, q)),
        }
        steps = tuple(known[name]() for name in self.steps)
        # [B T H D] seen as [B H T D], as models hold them
        shapes = ((b, q, h, self.width), (b, k, g, self.width), (b, k, g, self.value_width))
        operands = tuple(random(*shape).transpose(1, 2) for shape in shapes)
        return Made(self, operands, steps, random(h) if self.extra else None, visible, query, key)


@dataclass(frozen=True)
class Made:
    case: Case
    operands: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    extra: Tensor | None
    visible: Tensor
    query: Tensor
    key: Tensor

    def leaves(self, dtype: torch.dtype) -> tuple[Made, list[Tensor]]:
        """The same as leaves of `dtype` that want gradients."""
        leaves: list[Tensor] = []

        def leaf(x: Tensor) -> Tensor:
            leaves.append(x.detach().to(dtype).requires_grad_())
            return leaves[-1]

        operands = tuple(leaf(x) for x in self.operands)
        steps = tuple(_with(step, leaf) for step in self.steps)
        extra = None if self.extra is None else leaf(self.extra)
        return replace(self, operands=operands, steps=steps, extra=extra), leaves

    def native(self, **more: object) -> native.NativeResult:
        return native.forward(
            *self.operands,
            scale=self.case.width**-0.5,
            table=table_of(self.visible),
            query_position=self.query.int(),
            key_position=self.key.int(),
            steps=self.steps,
            extra_logit=self.extra,
            kind=self.case.kind,
            **more,  # type: ignore[arg-type]
        )

    def dense(self, keep: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return dense_attention(
            *self.operands,
            self.visible,
            scale=self.case.width**-0.5,
            steps=self.steps,
            query_position=self.query,
            key_position=self.key,
            extra_logit=self.extra,
            kind=self.case.kind,
            keep=keep,
        )


def _with(step: Step, leaf: Callable[[Tensor], Tensor]) -> Step:
    match step:
        case AddByDistance() | LogAddExpByDistance():
            return replace(step, table=leaf(step.table))
        case MultiplyByQuery():
            return replace(step, factor=leaf(step.factor))
        case AddByQuery():
            return replace(step, term=leaf(step.term))
    return step


def compare(case: Case, *, factor: float = 2.0) -> None:
    """Output, lse and every gradient: at most `factor` times as wrong as dense attention of the same type, and 4 eps.

    In float64 the truth is no better than what is compared, so that there it is 64 eps alone.
    """
    made = case.made()
    given = torch.randn(case.batch, case.heads, case.queries, case.value_width)
    given_lse = torch.randn(case.batch, case.heads, case.queries)
    sees = made.visible.any(-1)[:, None].expand(given_lse.shape)
    single = torch.float64 if case.dtype is torch.float64 else torch.float32
    results: dict[str, list[Tensor]] = {}
    for way, dtype in (("truth", torch.float64), ("plain", case.dtype), ("native", case.dtype)):
        here, leaves = made.leaves(dtype)
        if way == "native":
            result = here.native()
            output, lse = result.output, result.key_lse
        else:
            if way == "plain" and dtype is not single:
                here = replace(here, operands=tuple(x.to(single) for x in here.operands))
                here = replace(here, steps=tuple(_with(step, lambda x: x.to(single)) for step in here.steps))
                here = replace(here, extra=None if here.extra is None else here.extra.to(single))
            output, _, lse = here.dense()
            output = output.to(dtype)
        loss = (output * given.to(output.dtype)).sum()
        if case.kind == "softmax":
            loss = loss + (lse.masked_fill(~sees, 0.0) * given_lse.to(lse.dtype)).sum()
            finite = torch.equal(lse.isneginf(), ~sees)
            assert finite, "lse is -inf exactly where nothing is seen"
            results[way] = [output, lse.masked_fill(~sees, 0.0)]
        else:
            results[way] = [output]
        results[way] += torch.autograd.grad(loss, leaves)
    for number, (truth, plain, ours) in enumerate(zip(*results.values(), strict=True)):
        assert ours.isfinite().all(), number
        eps = torch.finfo(ours.dtype).eps * (64 if case.dtype is torch.float64 else 4)
        room = eps * float(truth.detach().abs().max() if truth.numel() else 0)
        wrong, usual = (
            float((x.double() - truth).abs().max().detach()) if truth.numel() else 0.0 for x in (ours, plain)
        )
        assert wrong <= factor * usual + room, f"tensor {number}: {wrong:.2e}, dense {usual:.2e}, room {room:.2e}"
