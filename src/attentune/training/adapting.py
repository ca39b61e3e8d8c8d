"""How weights that came from elsewhere may change: frozen, slower in deeper layers, or by low-rank adapters alone."""

from __future__ import annotations

from typing import final

from torch import nn

from attentune.errors import TrainingError
from attentune.layers.low_rank import LowRank, add_adapters
from attentune.models.transformer import Transformer
from attentune.spec.start import StartSpec
from attentune.tasks.origin import Origin, fill, stacks_of
from attentune.tasks.task import Fitted


@final
class Beginning:
    """What makes a fresh model one that starts from `origin`, as `start` says; called with the model.

    The model then tells in `started_from` where its weights are from, and a training goes on from a checkpoint only
    where that is the same.
    """

    def __init__(self, origin: Origin, start: StartSpec, fitted: Fitted | None = None) -> None:
        self.origin, self.start, self.fitted = origin, start, fitted
        self._signature = origin.signature

    def __call__(self, model: nn.Module) -> None:
        filled = fill(model, self.origin, fitted=self.fitted, part=self.start.part)
        adapt(model, filled, self.start)
        model.started_from = {"weights": self._signature}  # type: ignore[assignment]


def adapt(model: nn.Module, filled: frozenset[str], start: StartSpec) -> None:
    """Freezes, slows or adapts the weights of `model` called `filled`, in place.

    Raises:
        TrainingError: a part that shall be frozen is none of the model's, layers that it does not have, or nothing
            would learn.
    """
    stacks = stacks_of(model)
    each = [
        (name, stack, f"{name}." if name else "")
        for name, stack in stacks.items()
        if any(one.startswith(f"{name}." if name else "") for one in filled)
    ]
    weights, by_name = dict(model.named_parameters()), {"encoder", "decoder"} <= stacks.keys()
    deepest = max((stack.spec.depth for _, stack, _ in each), default=0)
    for part in start.frozen:
        named = [
            before + own
            for name, stack, before in each
            for own, _ in stack.named_parameters()
            if before + own in filled and part.holds(name if by_name else part.stack or name, own)
        ]
        if named and part.last is not None and part.last >= deepest:
            raise TrainingError(f"freeze={part.text!r}: the layers of this model are 0 to {deepest - 1}")
        if not named:
            raise TrainingError(f"freeze={part.text!r} names nothing of this model that came from {start.path}")
        for one in named:
            if one in weights:
                weights[one].requires_grad_(False)
    if start.layer_decay < 1:
        for _, stack, before in each:
            _slow_down(stack, {one.removeprefix(before) for one in filled}, start.layer_decay)
    if start.adapters.rank:
        for one in filled:
            if one in weights:
                weights[one].requires_grad_(False)
        count = 0
        for _, stack, _ in each:
            adapters = start.adapters
            count += add_adapters(stack, rank=adapters.rank, alpha=adapters.alpha, where=adapters.where)
        if not count:
            raise TrainingError("adapters stand on the matrices of attentions, and this model has none")
        _slow_down_adapters(each, start.layer_decay)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("everything is frozen: nothing would learn; freeze less")


def _slow_down(stack: Transformer, filled: set[str], decay: float) -> None:
    """Layer i of D learns with decay^(D - i) of the learning rate, the embedding below with decay^(D + 1)."""
    for name, parameter in stack.named_parameters():
        if name in filled:
            parameter.rate = decay ** _below_the_top(name, stack.spec.depth)  # type: ignore[attr-defined]


def _slow_down_adapters(each: list[tuple[str, Transformer, str]], decay: float) -> None:
    for _, stack, _ in each:
        for index, layer in enumerate(stack.layers):
            for module in layer.modules():
                for parameter in module.parameters() if isinstance(module, LowRank) else ():
                    parameter.rate = decay ** (stack.spec.depth - index)  # type: ignore[attr-defined]


def _below_the_top(name: str, depth: int) -> int:
    """How many steps a weight stands below the output: 0 for the last norm and the head."""
    part, _, rest = name.partition(".")
    if part == "embedding":
        return depth + 1
    return depth - int(rest.partition(".")[0]) if part == "layers" else 0
