"""Which kernels the attentions of a model have chosen: told to a checkpoint, and taken from it.

A run that goes on must go on with the kernels that it began with, whatever `auto` would say on a machine that was
measured meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from attentune.kernels.layout import LayoutKind
from attentune.kernels.plan import plan
from attentune.layers.attention import Attention


def chosen_kernels(model: nn.Module) -> dict[str, dict[str, str]]:
    """The kernel of each plan of each attention, by the attention's name and the purpose of the plan: plain data."""
    return {
        name: {_purpose(key): bound.choice for key, bound in part.plans.items()} for name, part in _attentions(model)
    }


def choose_kernels(model: nn.Module, chosen: Mapping[str, Mapping[str, str]]) -> None:
    """Have every attention of a model take the kernels that `chosen_kernels` told; what it did not tell stays.

    Raises:
        KernelError: one of them cannot compute its attention here.
    """
    for name, part in _attentions(model):
        for key, bound in part.plans.items():
            kernel = chosen.get(name, {}).get(_purpose(key), bound.choice)
            if kernel != bound.choice:
                part.plans[key] = plan(bound.request, kernel)


def _attentions(model: nn.Module) -> Iterator[tuple[str, Attention]]:
    return ((name, part) for name, part in model.named_modules() if isinstance(part, Attention))


def _purpose(key: tuple[LayoutKind, bool, bool, int]) -> str:
    layout, needs_grad, drop, bucket = key
    words = [layout.value, "with gradients" if needs_grad else "", "with dropout" if drop else "", f"bucket {bucket}"]
    return ", ".join(filter(None, words))
