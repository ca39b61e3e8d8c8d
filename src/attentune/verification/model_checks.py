"""The contract of whole layers: two of them as a language model, with projections, rotations, caches and what is
carried from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from attentune.kernels import Layout
from attentune.layers.state import State
from attentune.models.decoder import Decoder
from attentune.shapes import Int, Tensor
from attentune.spec.model import FeedForwardSpec, LayerSpec, ModelSpec
from attentune.verification import inputs
from attentune.verification.examples import sizes
from attentune.verification.findings import Finding, Tensors, holds, largest, same, within_dtype

VOCABULARY = 64  # no token comes twice in a case: which of two equal keys is larger would be for rounding to say
OTHER = 24  # to the token that stands in its place
MIXER_WIDTH = 8
ROUNDS = 8  # a layer rounds its operands about so often


@dataclass
class ModelCase:
    """One model asked for one layout. Tokens and weights depend on the layer and the seed alone."""

    layer: LayerSpec
    kernel: str
    dtype: torch.dtype
    layout: str
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        self.spec = spec_of(self.layer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(inputs.seed_of(str(self.layer), seed=self.seed))
            drawn = torch.randperm(OTHER)
            self.ids = drawn[: inputs.BATCH * inputs.LENGTH].view(inputs.BATCH, inputs.LENGTH)
            self.context = inputs.rounded(torch.randn(inputs.BATCH, inputs.CONTEXT, self.spec.width))
        self.model = self.build(self.dtype, self.kernel)

    @property
    def remembers(self) -> bool:
        return self.spec.depth == 1

    @property
    def is_causal(self) -> bool:
        return self.layer.attention is None or self.layer.attention.mask.lookahead == 0

    @property
    def first(self) -> int:
        """How many tokens the first piece needs when a row is decoded piece by piece."""
        attention = self.layer.attention
        return max(1, 0 if attention is None else attention.mask.lookahead or 0)

    @cached_property
    def truth(self) -> Tensors:
        """What the reference computes in float64."""
        kernel = "auto" if self.kernel == "auto" else "reference"
        return self.compute(self.build(torch.float64, kernel), self.ids)

    @cached_property
    def shaken(self) -> Tensors:
        """How much the truth changes with every weight rounded to the dtype: the condition of the problem."""
        kernel = "auto" if self.kernel == "auto" else "reference"
        model = deepcopy(self.build(torch.float64, kernel))
        eps = torch.finfo(self.dtype).eps
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            for parameter in model.parameters():
                parameter.mul_(1 + eps * (torch.rand(parameter.shape).to(parameter) - 0.5))
        return {name: tensor - self.truth[name] for name, tensor in self.compute(model, self.ids).items()}

    @property
    def slack(self) -> float:
        """By how much the logits of two ways to them may differ beyond rounding of the result."""
        return ROUNDS * largest(self.shaken["output"])

    def build(self, dtype: torch.dtype, kernel: str) -> Decoder:
        """The model in `dtype`. `KernelError` where `kernel` cannot compute it."""
        return model_of(self.layer, kernel, dtype, self.device, self.seed)

    def plain(self, length: int, row: int = 0) -> Layout:
        """Full rows; with the prefix of `row` alone where the mask asks for one."""
        layout = Layout.plain(length, device=self.device)
        if self.layer.attention is None or not inputs.asks_for_prefix(self.layer.attention.mask):
            return layout
        return layout.with_prefix(torch.tensor(inputs.PREFIX[row : row + 1], device=self.device))

    def make_layout(self) -> Layout:
        name = "plain" if self.layout in ("cached", "cross") else self.layout
        if self.layer.attention is None:
            return inputs.layout(name, inputs.EVERYTHING, device=self.device)
        return inputs.layout(name, self.layer.attention.mask, device=self.device)

    def logits(
        self, ids: Int[Tensor, "B T"], layout: Layout | None, state: State | None = None, *, row: int | None = None
    ) -> Tensor:
        """Logits [B T N] without gradients, of all rows or of `row` alone."""
        with torch.no_grad():
            context, valid = self._context() if state is None or state.length == 0 else (None, None)
            if context is not None and valid is not None and row is not None:
                context, valid = context[row : row + 1], valid[row : row + 1]
            output = self.model(ids.to(self.device), layout, state=state, context=context, context_valid=valid)
            logits: Tensor = output.logits
            return logits.cpu()

    def _context(self, dtype: torch.dtype | None = None) -> tuple[Tensor | None, Tensor | None]:
        if self.layer.cross is None:
            return None, None
        valid = inputs.cross_layout(1, inputs.CONTEXT, device=self.device).key.valid
        assert valid is not None
        return self.context.to(self.device, dtype or self.dtype), valid

    def compute(self, model: Decoder, ids: Int[Tensor, "B T"]) -> Tensors:
        """Logits and the gradient of every parameter, in float64 on the CPU; padding has no part in the loss."""
        layout = self.make_layout()
        held = dict(model.named_parameters())
        table = next(iter(held.values()))
        context, valid = self._context(table.dtype)
        output = model(ids.to(self.device), layout, context=context, context_valid=valid)
        logits = output.logits
        mixture = torch.linspace(-1, 1, logits.numel(), device=self.device, dtype=logits.dtype).view_as(logits)
        if layout.query.valid is not None:
            mixture = mixture.masked_fill(~layout.query.valid[..., None], 0.0)
            logits = logits.masked_fill(~layout.query.valid[..., None], 0.0)
        loss = (logits * mixture).sum() + sum(output.losses.values())
        gradients = torch.autograd.grad(loss, list(held.values()), allow_unused=True)
        given = {
            name: torch.zeros_like(held[name]) if gradient is None else gradient
            for name, gradient in zip(held, gradients, strict=True)
        }
        found = {"output": logits, **{f"losses.{name}": loss for name, loss in output.losses.items()}, **given}
        return {name: tensor.detach().cpu().double() for name, tensor in found.items()}


def spec_of(layer: LayerSpec) -> ModelSpec:
    """Two such layers, or one where a memory shall hold all there is."""
    attention = layer.attention
    width = MIXER_WIDTH if attention is None else sizes(attention, bias=True, depth=2).width
    if layer.cross is not None:
        width = sizes(layer.cross, bias=True, depth=2, cross=True).width
    return ModelSpec(
        vocab_size=VOCABULARY,
        width=width,
        depth=1 if attention is not None and attention.memory is not None else 2,
        context=4 * inputs.LENGTH,
        layers=(layer,),
        feed_forward=FeedForwardSpec(name="none"),
        norm="rms",
        bias=True,
    )


@lru_cache(maxsize=16)
def model_of(layer: LayerSpec, kernel: str, dtype: torch.dtype, device: str, seed: int) -> Decoder:
    """The model of `layer`. The weights depend on layer and seed alone, and are numbers that every dtype can hold."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs.seed_of(str(layer), "weights", seed=seed))
        model = Decoder(spec_of(layer))
        with torch.no_grad():
            for _, parameter in sorted(model.named_parameters()):
                parameter.copy_(inputs.rounded(parameter + 0.3 * torch.randn(parameter.shape)))
    model = model.to(device, dtype)
    model.bind(kernel=kernel)
    return model.eval()


def exact(case: ModelCase) -> Iterator[Finding]:
    """Logits and gradients of all parameters are those of the float64 reference."""
    slack = ROUNDS * max(largest(tensor) for tensor in case.shaken.values())
    found = case.compute(case.model, case.ids)
    yield from within_dtype("exact as a model", found, case.truth, case.dtype, factor=case.spec.depth, slack=slack)


def every_parameter_learns(case: ModelCase) -> Iterator[Finding]:
    """Each tensor that a value declares receives a gradient in one of the layers."""
    if case.dtype is not torch.float64 or not _keys_differ(case):
        return
    reached: dict[str, bool] = {}
    for name, gradient in case.compute(case.model, case.ids).items():
        if name.startswith("layers."):
            own = name.split(".", 2)[2]
            reached[own] = reached.get(own, False) or bool((gradient != 0).any())
    for name, learns in reached.items():
        yield holds("every parameter receives a gradient", name, learns)


def _keys_differ(case: ModelCase) -> bool:
    """Whether any query has two keys to choose from: else its scores change nothing."""
    if case.layer.attention is None:
        return True
    return bool((case.make_layout().visible(case.layer.attention.mask).sum(-1) > 1).any())


def nothing_flows_from_the_future(case: ModelCase) -> Iterator[Finding]:
    """Later tokens change no earlier logits."""
    if not case.is_causal:
        return
    before = case.logits(case.ids, case.make_layout())
    for t in range(1, inputs.LENGTH, 2):
        ids = case.ids.clone()
        ids[:, t:] = ids[:, t:] + OTHER
        after = case.logits(ids, case.make_layout())
        name = f"logits before token {t}"
        check = "nothing flows from the future, as a model"
        yield from same(check, {name: after[:, :t]}, {name: before[:, :t]}, case.dtype, slack=case.slack)
        yield holds("a token is seen", f"logits of token {t}", not torch.equal(after[:, t], before[:, t]))


def padding_is_inert(case: ModelCase) -> Iterator[Finding]:
    """Other tokens on padding change no logits and no gradients; a padded row computes what its tokens do alone."""
    valid = inputs.padding(inputs.LENGTH) if case.layout == "padded" else inputs.documents(inputs.LENGTH) >= 0
    other = torch.where(valid, case.ids, case.ids + OTHER)
    yield from same(
        "padding is inert, as a model", case.compute(case.model, other), case.compute(case.model, case.ids), case.dtype
    )
    if case.layout != "padded":
        return
    logits = case.logits(case.ids, case.make_layout())
    for row in range(2):
        real = valid[row]
        alone = case.logits(case.ids[row : row + 1, real], case.plain(int(real.sum()), row), row=row)
        name = f"logits of row {row}"
        yield from same(
            "a padded row is its real tokens", {name: logits[row, real]}, {name: alone[0]}, case.dtype, slack=case.slack
        )


def documents_are_isolated(case: ModelCase) -> Iterator[Finding]:
    """Every document of a packed row computes what it computes alone."""
    logits = case.logits(case.ids, case.make_layout())
    for row, begin, end in inputs.document_spans(inputs.LENGTH):
        alone = case.logits(case.ids[row : row + 1, begin:end], case.plain(end - begin, row), row=row)
        name = f"logits of row {row}, tokens {begin} to {end - 1}"
        part = {name: logits[row, begin:end]}
        yield from same("documents are isolated, as a model", part, {name: alone[0]}, case.dtype, slack=case.slack)


def decoding_is_the_whole(case: ModelCase) -> Iterator[Finding]:
    """Token by token, in chunks, after a padded prompt and after going back: the same logits; unfilled slots hold NaN.

    Raises `SpecError` where the layer refuses to be decoded.
    """
    whole = case.logits(case.ids, case.make_layout())
    length = inputs.LENGTH
    first = min(case.first, length)  # where it needs more, the model says so
    for name, pieces in (
        ("one token at a time", [first] + [1] * (length - first)),
        ("in chunks", [first, *_chunks(length - first)]),
    ):
        state = case.model.start(inputs.BATCH)
        given = _decoded(case, case.ids, pieces, state, _prompt(case, first))
        yield from same(
            f"decoding {name} is the whole", {"logits": given}, {"logits": whole}, case.dtype, slack=case.slack
        )
        if name == "in chunks" and not case.remembers and not case.layer.branches and length - 2 >= first:
            state.truncate(length - 2)
            again = _decoded(case, case.ids[:, length - 2 :], [1, 1], state, None)
            part = {"logits": whole[:, length - 2 :]}
            yield from same(
                "decoding after going back is the whole", {"logits": again}, part, case.dtype, slack=case.slack
            )
    if first == 1 and not case.remembers:
        yield from _after_a_padded_prompt(case)


def _prompt(case: ModelCase, length: int) -> Layout | None:
    """The layout of the first piece: what a mask must be told of each row's prefix."""
    layout = case.make_layout()
    if layout.query.prefix is None:
        return None
    return Layout.plain(length, device=case.device).with_prefix(torch.tensor(inputs.PREFIX, device=case.device))


def _chunks(length: int) -> list[int]:
    found = []
    for size in (2, 3, 2, 3):
        found.append(min(size, length))
        length -= found[-1]
    return [size for size in found if size]


def _decoded(case: ModelCase, ids: Tensor, pieces: list[int], state: State, layout: Layout | None) -> Tensor:
    given = []
    for piece in ids.split(pieces, 1):
        given.append(case.logits(piece, layout, state))
        layout = None
        for layer in state.layers:
            if layer.cache is not None:
                for buffer in layer.cache.buffers.values():
                    buffer[:, :, layer.cache.length :] = float("nan")
    return torch.cat(given, 1)


def _after_a_padded_prompt(case: ModelCase) -> Iterator[Finding]:
    valid = inputs.padding(inputs.LENGTH)
    state = case.model.start(inputs.BATCH)
    prompt = Layout.padded(valid.to(case.device))
    prefixed = case.plain(1)
    if prefixed.query.prefix is not None:
        prompt = prompt.with_prefix(torch.tensor(inputs.PREFIX, device=case.device))
    _decoded(case, case.ids, [inputs.LENGTH], state, prompt)
    following = case.ids[:, :2] + OTHER
    given = _decoded(case, following, [1, 1], state, None)
    for row in range(inputs.BATCH):
        ids = torch.cat([case.ids[row, valid[row]], following[row]])[None]
        alone = case.logits(ids, case.plain(ids.shape[1], row), row=row)
        name = f"logits of row {row}"
        check = "decoding after a padded prompt is the whole"
        yield from same(check, {name: given[row]}, {name: alone[0, -2:]}, case.dtype, slack=case.slack)


CHECKS: dict[str, tuple[Callable[[ModelCase], Iterator[Finding]], ...]] = {
    "plain": (exact, every_parameter_learns, nothing_flows_from_the_future),
    "padded": (exact, padding_is_inert),
    "packed": (exact, padding_is_inert, documents_are_isolated),
    "cached": (decoding_is_the_whole,),
    "cross": (exact, every_parameter_learns, decoding_is_the_whole),
}
