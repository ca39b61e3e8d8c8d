"""A small language model of two such layers, for the checks of whole layers."""

from __future__ import annotations

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
from attentune.verification.findings import Tensors, largest

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
        if self.layout == "cached":
            self.layer = with_room(self.layer)
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
    def found(self) -> Tensors:
        """What the model computes."""
        return self.compute(self.model, self.ids)

    @cached_property
    def rows(self) -> Tensor:
        """The logits of whole rows, without gradients."""
        return self.logits(self.ids, self.make_layout())

    @property
    def truth(self) -> Tensors:
        """What the reference computes in float64."""
        return _truth(self.layer, self._exactly, self.layout, self.device, self.seed)

    @property
    def shaken(self) -> Tensors:
        """How much the truth changes with every weight rounded to the dtype: the condition of the problem."""
        return _shaken(self.layer, self._exactly, self.layout, self.device, self.seed, self.dtype)

    @property
    def _exactly(self) -> str:
        return "auto" if self.kernel == "auto" else "reference"

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

    def loss(self, model: Decoder, ids: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A mixture of all logits and of what the layers add, the logits, and what they add; padding has no part."""
        layout = self.make_layout()
        context, valid = self._context(next(model.parameters()).dtype)
        output = model(ids.to(self.device), layout, context=context, context_valid=valid)
        logits = output.logits
        mixture = torch.linspace(-1, 1, logits.numel(), device=self.device, dtype=logits.dtype).view_as(logits)
        if layout.query.valid is not None:
            mixture = mixture.masked_fill(~layout.query.valid[..., None], 0.0)
            logits = logits.masked_fill(~layout.query.valid[..., None], 0.0)
        return (logits * mixture).sum() + sum(output.losses.values()), logits, output.losses

    def compute(self, model: Decoder, ids: Int[Tensor, "B T"]) -> Tensors:
        """Logits and the gradient of every parameter, in float64 on the CPU."""
        held = dict(model.named_parameters())
        loss, logits, losses = self.loss(model, ids)
        gradients = torch.autograd.grad(loss, list(held.values()), allow_unused=True)
        given = {
            name: torch.zeros_like(held[name]) if gradient is None else gradient
            for name, gradient in zip(held, gradients, strict=True)
        }
        found = {"output": logits, **{f"losses.{name}": added for name, added in losses.items()}, **given}
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


@lru_cache(maxsize=8)  # every kernel and dtype is held against it
def _truth(layer: LayerSpec, kernel: str, layout: str, device: str, seed: int) -> Tensors:
    return ModelCase(layer, kernel, torch.float64, layout, device, seed).found


@lru_cache(maxsize=8)
def _shaken(layer: LayerSpec, kernel: str, layout: str, device: str, seed: int, dtype: torch.dtype) -> Tensors:
    case = ModelCase(layer, kernel, torch.float64, layout, device, seed)
    weights, eps = dict(case.model.named_parameters()), torch.finfo(dtype).eps
    begun = {name: parameter.detach().clone() for name, parameter in weights.items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in weights.values():
            parameter.mul_(1 + eps * (torch.rand(parameter.shape).to(parameter) - 0.5))
    try:
        shaken = case.compute(case.model, case.ids)
    finally:  # other cases compute with the same model
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(begun[name])
    return {name: tensor - case.truth[name] for name, tensor in shaken.items()}


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


def with_room(layer: LayerSpec) -> LayerSpec:
    """The layer with room in its memory for everything, so that what it remembers is all there is."""
    attention = layer.attention
    if attention is None or attention.memory is None:
        return layer
    return layer.replace(attention=attention.replace(memory=attention.memory.replace(length=4 * inputs.LENGTH)))
