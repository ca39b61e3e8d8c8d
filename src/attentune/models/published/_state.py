"""Reading foreign weights: every tensor is used or known to hold none, and every parameter of ours is filled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import final

import torch

from attentune.errors import CheckpointError
from attentune.models.decoder import Decoder
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec


@final
class State:
    """The tensors of a checkpoint by name.

    `prefix` may stand before all names or before none (a checkpoint of the bare model has none). `without` are
    patterns of whole names, after the prefix, that hold nothing the model needs: buffers, heads of other tasks.
    """

    def __init__(
        self, family: str, tensors: Mapping[str, Tensor], *, prefix: str = "", without: tuple[str, ...] = ()
    ) -> None:
        self.family = family
        self.names = {name.removeprefix(prefix): name for name in tensors}
        self.tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        self.unread = {name for name in self.tensors if not any(re.fullmatch(p, name) for p in without)}

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise CheckpointError(f"{self.family} weights: {name!r} is missing")
        self.unread.discard(name)
        return self.tensors[name]

    def same(self, name: str, as_name: str) -> None:
        """A tensor that is tied to another: it may be there, but not say anything else."""
        if name in self.tensors:
            tied, held = self.take(name), self.take(as_name)
            if tied is not held and not torch.equal(tied, held):
                raise CheckpointError(
                    f"{self.family} weights: {name!r} differs from {as_name!r}, to which the configuration ties it"
                )

    def finish(self, mapped: dict[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
        """`mapped`, once no tensor is left over and every parameter of the model has its own shape."""
        for name in sorted(self.unread):
            raise CheckpointError(f"{self.family} weights: {self.names[name]!r} is unknown here, and would be lost")
        with torch.device("meta"):
            own = {name: tuple(tensor.shape) for name, tensor in Decoder(spec).named_parameters()}
        for name in sorted(own.keys() ^ mapped.keys()):
            reason = "no tensor for" if name in own else "a tensor too many,"
            raise CheckpointError(f"{self.family} weights do not fit the spec: {reason} {name!r}")
        for name, shape in own.items():
            if tuple(mapped[name].shape) != shape:
                raise CheckpointError(
                    f"{self.family} weights do not fit the spec: {name!r} has shape {tuple(mapped[name].shape)}, "
                    f"expected {shape}"
                )
        return mapped
