"""What a model carries from one training segment to the next, taken apart into named tensors and put back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from attentune.errors import CheckpointError

Plain = bool | int | float | str | None


def detached(state: Any) -> Any:
    """The same state without its history of gradients: dataclasses, dicts, lists and tuples of tensors."""
    return _mapped(state, "", lambda _, leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)


def take_apart(state: Any) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """All tensors and all plain values of `state` by their path, such as `layers.0.keys`."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Plain] = {}

    def visit(path: str, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            tensors[path] = leaf
        elif leaf is None or isinstance(leaf, bool | int | float | str):
            plain[path] = leaf
        return leaf

    _mapped(state, "", visit)
    return tensors, plain


def put_together(template: Any, tensors: dict[str, Tensor], plain: dict[str, Plain]) -> Any:
    """A state built like `template` that holds the values taken apart earlier, whatever their shapes are.

    Raises:
        CheckpointError: the two are not built alike.
    """
    used: set[str] = set()

    def visit(path: str, leaf: Any) -> Any:
        if path in tensors:
            used.add(path)
            device = leaf.device if isinstance(leaf, Tensor) else None
            return tensors[path].to(device)
        if path in plain:
            used.add(path)
            return plain[path]
        if isinstance(leaf, Tensor):
            raise CheckpointError(f"the checkpoint holds no memory {path!r}; it was made by another model")
        return leaf

    result = _mapped(template, "", visit)
    left = sorted((set(tensors) | set(plain)) - used)
    if left:
        raise CheckpointError(f"the checkpoint holds memory {left[0]!r} that this model does not have")
    return result


def _mapped(value: Any, path: str, leaf: Any) -> Any:
    def inner(name: str | int, item: Any) -> Any:
        return _mapped(item, f"{path}.{name}" if path else str(name), leaf)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: inner(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: inner(key, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(inner(name, item) for name, item in zip(value._fields, value, strict=True)))
    if isinstance(value, list | tuple):
        return type(value)(inner(index, item) for index, item in enumerate(value))
    return leaf(path, value)


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """The states of the random generators that training draws from."""
    tensors = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def set_random(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Puts the generators back to where `random_tensors` found them."""
    torch.set_rng_state(tensors["cpu"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
