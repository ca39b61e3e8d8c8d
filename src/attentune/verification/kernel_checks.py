"""The contract of every kernel: what one call gives, and every gradient of it, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from attentune.errors import SpecError
from attentune.kernels import KERNELS, Call, Layout, Reason, Request
from attentune.mechanisms import attention
from attentune.shapes import Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Dims
from attentune.verification import inputs
from attentune.verification.examples import sizes, summed
from attentune.verification.findings import (
    Finding,
    Tensors,
    against_reference,
    holds,
    largest,
    same,
    within_dtype,
    zero,
)

ROUNDS = 24  # scores and their log-sum-exp are rounded about so often before they are weights, forward and backward
INSIDE = ("similarity", "position", "scores", "normalizer", "head_mix", "selector")  # slots that a kernel computes


@dataclass
class KernelCase:
    """One kernel asked for one attention on one layout. The operands depend on everything but kernel and dtype."""

    spec: AttentionSpec
    kernel: str
    dtype: torch.dtype
    layout: str
    device: str = "cpu"
    seed: int = 0
    length: int = inputs.LENGTH
    forward_only: bool = False

    def __post_init__(self) -> None:
        self.dims: Dims = summed(self.spec, sizes(self.spec, cross=self.layout == "cross"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(inputs.seed_of(str(self.spec), self.layout, self.length, seed=self.seed))
            keys = inputs.CONTEXT if self.layout == "cross" else self.length
            self.qkv = inputs.operands(self.dims, self.queries, keys)
            self.params = inputs.slot_parameters(self.spec, self.dims)

    @property
    def queries(self) -> int:
        return inputs.NEWEST if self.layout == "cached" else self.length

    def make_layout(self) -> Layout:
        return inputs.layout(self.layout, self.spec.mask, self.length, device=self.device)

    def reasons(self) -> tuple[Reason, ...]:
        """Why the kernel cannot."""
        return KERNELS[self.kernel].supports(self.request())

    def request(self) -> Request:
        """What the kernel is asked."""
        kind = inputs.layout(self.layout, self.spec.mask, self.length).kind
        keys = inputs.CONTEXT if self.layout == "cross" else self.length
        return Request(
            self.spec,
            self.dims,
            inputs.BATCH,
            self.queries,
            keys,
            kind,
            self.device,
            self.dtype,
            needs_grad=not self.forward_only,
        )

    @cached_property
    def found(self) -> Tensors:
        """What the kernel computes of the case as it stands."""
        return self.compute()

    @property
    def truth(self) -> Tensors:
        """What the reference computes of it in float64."""
        return _truth(self.spec, self.layout, self.device, self.seed, self.length, self.forward_only)

    @property
    def shaken(self) -> Tensors:
        """The truth of operands that are rounded to the dtype: how much it differs is the condition of the problem."""
        return _truth(self.spec, self.layout, self.device, self.seed, self.length, self.forward_only, self.dtype)

    def output(self, *, layout: Layout | None = None, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The output alone, of other operands."""
        return self.compute(layout=layout, qkv=qkv, backward=False)["output"]

    def compute(
        self,
        *,
        kernel: str | None = None,
        dtype: torch.dtype | None = None,
        layout: Layout | None = None,
        qkv: tuple[Tensor, Tensor, Tensor] | None = None,
        backward: bool = True,
    ) -> Tensors:
        """The output and, where the kernel has any and `backward` asks for them, all gradients: float64, on the CPU."""
        dtype = dtype or self.dtype

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self.device, dtype).requires_grad_()

        q, k, v = (leaf(tensor) for tensor in qkv or self.qkv)
        own = {
            slot: [{name: leaf(tensor) for name, tensor in one.items()} for one in held]
            for slot, held in self.params.items()
        }
        call = Call(self.spec, self.dims, own, q, k, v, layout or self.make_layout())
        with torch.set_grad_enabled(not self.forward_only):
            if self.forward_only:  # learned tensors keep their wish for a gradient, as a module's do
                call = replace(call, q=q.detach(), k=k.detach(), v=v.detach())
            output = KERNELS[kernel or self.kernel].run(call).output
        if self.forward_only or not backward:
            return {"output": output.detach().cpu().double()}
        named = {"q": q, "k": k, "v": v}
        for slot in INSIDE:
            for place, one in enumerate(own.get(slot, [])):
                named |= {f"{slot}.{place}.{name}": tensor for name, tensor in one.items()}
        mixture = torch.linspace(-1, 1, output.numel(), device=self.device, dtype=dtype).view_as(output)
        gradients = torch.autograd.grad((output * mixture).sum(), list(named.values()), allow_unused=True)
        given = {
            name: torch.zeros_like(named[name]) if gradient is None else gradient
            for name, gradient in zip(named, gradients, strict=True)
        }
        return {name: tensor.detach().cpu().double() for name, tensor in {"output": output, **given}.items()}


@lru_cache(maxsize=16)  # every kernel and dtype is held against it
def _truth(
    spec: AttentionSpec,
    layout: str,
    device: str,
    seed: int,
    length: int,
    forward_only: bool,
    shaken: torch.dtype | None = None,
) -> Tensors:
    case = KernelCase(spec, "reference", torch.float64, layout, device, seed, length, forward_only)
    if shaken is None:
        return case.compute()
    q, k, v = (inputs.shaken_by(tensor, shaken) for tensor in case.qkv)
    return case.compute(qkv=(q, k, v))


def exact(case: KernelCase) -> Iterator[Finding]:
    """Output and gradients are those of the float64 reference."""
    right, found = case.truth, case.found
    yield from _shaped(case, found)
    if case.kernel == "reference":
        yield from within_dtype("exact", found, right, case.dtype)
    else:
        plain = case.compute(kernel="reference")
        yield from against_reference("exact", found, plain, right, case.dtype, names={"output"})
        gradients = right.keys() - {"output"}  # each adds up many pairs, of which most cancels
        if gradients:
            slack = ROUNDS * max(largest(case.shaken[name] - right[name]) for name in gradients)
            yield from against_reference("exact", found, plain, right, case.dtype, names=gradients, slack=slack)


def _shaped(case: KernelCase, found: Tensors) -> Iterator[Finding]:
    shape = (inputs.BATCH, case.dims.heads, case.queries, case.dims.value_width)
    yield holds("shape", "output", tuple(found["output"].shape) == shape)


def padding_is_inert(case: KernelCase) -> Iterator[Finding]:
    """NaN on padding and on keys that are not there changes no number; padding itself gives and receives 0."""
    made = case.make_layout()
    poisoned = tuple(
        tensor if valid is None else tensor.masked_fill(~valid.cpu()[:, None, :, None], float("nan"))
        for tensor, valid in zip(case.qkv, (made.query.valid, made.key.valid, made.key.valid), strict=True)
    )
    clean = case.found
    q, k, v = poisoned
    found = case.compute(qkv=(q, k, v))
    for name, right in clean.items():
        yield zero("padding is inert", name, found[name] - right)
    for name, valid in (
        ("output", made.query.valid),
        ("q", made.query.valid),
        ("k", made.key.valid),
        ("v", made.key.valid),
    ):
        if valid is not None and name in found:
            yield zero("padding gives 0", name, found[name].movedim(2, 1)[~valid.cpu()])


def documents_are_isolated(case: KernelCase) -> Iterator[Finding]:
    """Every document of a packed row computes what it computes alone."""
    packed = case.found["output"]
    for row, begin, end in inputs.document_spans(case.length):
        q, k, v = (tensor[row : row + 1, :, begin:end] for tensor in case.qkv)
        layout = Layout.plain(end - begin, device=case.device)
        if inputs.asks_for_prefix(case.spec.mask):
            layout = layout.with_prefix(torch.tensor(inputs.PREFIX[row : row + 1], device=case.device))
        alone = case.output(layout=layout, qkv=(q, k, v))
        part = {"output": packed[row : row + 1, :, begin:end]}
        yield from same("documents are isolated", part, {"output": alone}, case.dtype)


def nothing_flows_from_the_future(case: KernelCase) -> Iterator[Finding]:
    """Later tokens change nothing before them, nor does an earlier output send them a gradient."""
    if case.spec.mask.lookahead != 0:
        return
    before = case.found["output"]
    for t in range(1, case.length, 1 + case.length // 8):
        q, k, v = (tensor.clone() for tensor in case.qkv)
        for tensor in (q, k, v):
            tensor[:, :, t:] += 3.0
        after = case.output(qkv=(q, k, v))
        name = f"output before token {t}"
        yield from same("nothing flows from the future", {name: after[:, :, :t]}, {name: before[:, :, :t]}, case.dtype)
        some = before[:, :, t:].any() or after[:, :, t:].any()  # else no weight is left, such as relu2's of scores < 0
        if some and case.make_layout().visible(case.spec.mask)[..., t:, t:].any():
            moved = not torch.equal(before[:, :, t:], after[:, :, t:])
            yield holds("what is visible is seen", f"output from token {t}", moved)


def unseen_is_zero(case: KernelCase) -> Iterator[Finding]:
    """A query that sees nothing gives 0 and sends no gradient; nothing is NaN."""
    try:
        spec = case.spec.replace(mask=attention("heads=1, mask=~causal").mask)
        blind = replace(case, spec=spec)
    except SpecError:
        return  # such as a selector, which needs a mask that shows the past
    if blind.reasons():
        return
    found = blind.compute()
    yield zero("a query that sees nothing gives 0", "output", found["output"][:, :, -1])
    if "q" in found:
        yield zero("a query that sees nothing gives 0", "q", found["q"][:, :, -1])
    for name, tensor in found.items():
        yield holds("all numbers are finite", name, bool(torch.isfinite(tensor).all()))


CHECKS: dict[str, tuple[Callable[[KernelCase], Iterator[Finding]], ...]] = {
    "plain": (exact, nothing_flows_from_the_future, unseen_is_zero),
    "padded": (exact, padding_is_inert),
    "packed": (exact, padding_is_inert, documents_are_isolated),
    "cached": (exact,),
    "cross": (exact, padding_is_inert),
}
