"""The contract of mixers: every form the same, the state explicit, padding and documents honoured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from attentune.shapes import Tensor
from attentune.spec.mechanism import Dims
from attentune.spec.slots import Mixer
from attentune.verification import inputs
from attentune.verification.findings import Finding, Tensors, against_reference, largest, same, within_dtype, zero

WIDTH = 8
ROUNDS = 8  # a state adds up over the row
State = dict[str, Tensor]


@dataclass
class MixerCase:
    """One mixer computed in one form on one layout."""

    mixer: Mixer
    form: str
    dtype: torch.dtype
    layout: str
    device: str = "cpu"
    seed: int = 0
    length: int = inputs.LENGTH

    def __post_init__(self) -> None:
        self.dims = Dims(width=WIDTH, heads=1, groups=1, head_width=WIDTH, value_width=WIDTH, source_width=WIDTH)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(inputs.seed_of(repr(self.mixer), self.length, seed=self.seed))
            self.x = inputs.rounded(torch.randn(inputs.BATCH, self.length, WIDTH))
            self.params = inputs.parameters(self.mixer, self.dims)

    def places(self) -> tuple[Tensor | None, Tensor | None]:
        """What is real, and where documents start."""
        made = inputs.layout(self.layout, inputs.EVERYTHING, self.length, device=self.device)
        valid, starts = made.query.valid, made.starts
        shape = (inputs.BATCH, self.length)
        return (None if valid is None else valid.expand(shape)), (None if starts is None else starts.expand(shape))

    def start(self, rows: int, dtype: torch.dtype) -> State:
        return self.mixer.init(self.dims, rows, torch.zeros(1, device=self.device, dtype=dtype))

    @cached_property
    def found(self) -> Tensors:
        """What the form computes of the case as it stands, without infinities."""
        return _without_infinity(self.compute())

    def truth(self, *, shaken: torch.dtype | None = None) -> Tensors:
        """What the first form computes of it in float64; of inputs `shaken` by the rounding of a dtype, if so told."""
        return _truth(self.mixer, self.layout, self.device, self.seed, self.length, shaken)

    def output(self, x: Tensor, *, places: tuple[Tensor | None, Tensor | None] | None = None) -> Tensor:
        """The output alone, of another input."""
        return self.compute(x=x, places=places, backward=False)["output"]

    def compute(
        self,
        *,
        form: str | None = None,
        dtype: torch.dtype | None = None,
        x: Tensor | None = None,
        pieces: tuple[int, ...] | None = None,
        places: tuple[Tensor | None, Tensor | None] | None = None,
        backward: bool = True,
    ) -> Tensors:
        """Output, the state after the last token, and gradients of inputs and parameters; piece by piece if so told."""
        dtype = dtype or self.dtype
        given = (self.x if x is None else x).detach().to(self.device, dtype).requires_grad_()
        own = {name: t.detach().to(self.device, dtype).requires_grad_() for name, t in self.params.items()}
        valid, starts = self.places() if places is None else places
        state, outputs, begin = self.start(given.shape[0], dtype), [], 0
        for piece in pieces or (given.shape[1],):
            part = slice(begin, begin + piece)
            y, state = self.mixer.mix(
                own,
                given[:, part],
                state,
                None if valid is None else valid[:, part],
                None if starts is None else starts[:, part],
                form or self.form,
            )
            outputs.append(y)
            begin += piece
        output = torch.cat(outputs, 1)
        if not backward:
            return {"output": output.detach().cpu().double()}
        mixture = torch.linspace(-1, 1, output.numel(), device=self.device, dtype=dtype).view_as(output)
        named = {"x": given, **{f"parameters.{name}": tensor for name, tensor in own.items()}}
        gradients = torch.autograd.grad((output * mixture).sum(), list(named.values()), allow_unused=True)
        found = {"output": output, **{f"state.{name}": tensor for name, tensor in state.items()}}
        found |= {
            name: torch.zeros_like(named[name]) if gradient is None else gradient
            for name, gradient in zip(named, gradients, strict=True)
        }
        return {name: tensor.detach().cpu().double() for name, tensor in found.items()}


def _without_infinity(found: Tensors) -> Tensors:
    """A state may hold -inf for `nothing seen yet`; where both sides hold it, they agree."""
    return {name: tensor.nan_to_num(neginf=-1e3) if "state." in name else tensor for name, tensor in found.items()}


@lru_cache(maxsize=16)  # every form and dtype is held against it
def _truth(
    mixer: Mixer, layout: str, device: str, seed: int, length: int, shaken: torch.dtype | None = None
) -> Tensors:
    case = MixerCase(mixer, mixer.forms[0], torch.float64, layout, device, seed, length)
    return _without_infinity(case.compute(x=case.x if shaken is None else inputs.shaken_by(case.x, shaken)))


def exact(case: MixerCase) -> Iterator[Finding]:
    """Output, state and gradients are those of the first form in float64."""
    first = case.mixer.forms[0]
    right, found = case.truth(), case.found
    # How much the truth changes with every input rounded to the dtype: a norm of numbers that cancel magnifies it.
    shaken = case.truth(shaken=case.dtype)
    slack = ROUNDS * max(largest(shaken[name] - tensor) for name, tensor in right.items())
    if case.form == first or case.dtype is torch.float64:
        yield from within_dtype("exact", found, right, case.dtype, factor=ROUNDS, slack=slack)
    else:
        plain = _without_infinity(case.compute(form=first))
        yield from against_reference("exact", found, plain, right, case.dtype, layers=ROUNDS, slack=slack)


def nothing_flows_from_the_future(case: MixerCase) -> Iterator[Finding]:
    """Later tokens change nothing before them."""
    before = case.found["output"]
    for t in range(1, case.length, 1 + case.length // 8):
        x = case.x.clone()
        x[:, t:] += 3.0
        after = case.output(x)
        name = f"output before token {t}"
        yield from same("nothing flows from the future", {name: after[:, :t]}, {name: before[:, :t]}, case.dtype)


def padding_is_inert(case: MixerCase) -> Iterator[Finding]:
    """NaN on padding changes nothing, padding gives 0, and the state is that of the real tokens alone."""
    valid, starts = case.places()
    if valid is None:
        return
    clean = case.found
    poisoned = case.x.masked_fill(~valid.cpu()[..., None], float("nan"))
    found = _without_infinity(case.compute(x=poisoned))
    yield from same("padding is inert", found, clean, case.dtype)
    for name in ("output", "x"):
        yield zero("padding gives 0", name, found[name][~valid.cpu()])
    if starts is not None:
        return
    for row in range(2):
        real = valid[row].cpu()
        alone = _without_infinity(case.compute(x=case.x[row : row + 1, real], places=(None, None)))
        left = {name: tensor[row : row + 1] for name, tensor in clean.items() if "state." in name}
        left["output"] = clean["output"][row : row + 1, real]
        yield from same("a padded row is its real tokens", left, {name: alone[name] for name in left}, case.dtype)


def documents_are_isolated(case: MixerCase) -> Iterator[Finding]:
    """Every document of a packed row computes what it computes alone."""
    packed = case.found["output"]
    for row, begin, end in inputs.document_spans(case.length):
        alone = case.output(case.x[row : row + 1, begin:end], places=(None, None))
        part = {"output": packed[row : row + 1, begin:end]}
        yield from same("documents are isolated", part, {"output": alone}, case.dtype)


def pieces_are_the_whole(case: MixerCase) -> Iterator[Finding]:
    """Token by token and in chunks, with the state carried: the same output, state and gradients."""
    whole = case.found
    rest = case.length - 6
    for name, pieces in (
        ("one token at a time", (1,) * case.length),
        ("in chunks", (3, 1, 2, rest) if rest > 0 else (3, case.length - 3)),
    ):
        found = _without_infinity(case.compute(pieces=pieces))
        yield from same(f"decoding {name} is the whole", found, whole, case.dtype)


CHECKS: dict[str, tuple[Callable[[MixerCase], Iterator[Finding]], ...]] = {
    "plain": (exact, nothing_flows_from_the_future),
    "padded": (exact, padding_is_inert),
    "packed": (exact, padding_is_inert, documents_are_isolated),
    "cached": (pieces_are_the_whole,),
}
