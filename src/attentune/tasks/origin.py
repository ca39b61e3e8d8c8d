"""What a training starts from: the weights in a folder, and how they come into a model of another task.

A model is one or two stacks of layers (an encoder beside a decoder) with a head on top. Stacks travel from model to
model; the head of a task does so only to the same task with the same labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from attentune.errors import CheckpointError
from attentune.mechanisms import attention
from attentune.models.checkpoint import CONFIG, load_model, read_config, weights_of
from attentune.models.published.folder import is_published, read_published
from attentune.models.transformer import Transformer
from attentune.shapes import Tensor
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.tasks._ensemble import Ensemble
from attentune.tasks.folder import load
from attentune.tasks.task import Fitted, Stack

Tensors = Mapping[str, Tensor]
TRUNK = "trunk"  # the only stack of a model
HEADS = ("head", "head_bias", "head_transform")  # what makes logits of the vocabulary from a stack's vectors
CAUSAL = attention("heads=1, mask=causal").mask


@dataclass(frozen=True)
class Origin:
    """A model to start from.

    `stacks` are its weights by stack (`trunk`, or `encoder` and `decoder`), `head` what stands on them, for `labels`.
    """

    folder: Path
    what: str
    kind: str
    spec: ModelSpec
    stacks: Mapping[str, Tensors]
    head: Tensors = field(default_factory=dict)
    labels: Any = None

    @property
    def signature(self) -> str:
        """SHA-256 over the weights."""
        digest = hashlib.sha256()
        for stack, tensors in sorted(self.stacks.items()):
            for name, tensor in sorted(tensors.items()):
                digest.update(f"{stack}.{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(np.ascontiguousarray(tensor.contiguous().view(torch.uint8).numpy()).data)
        return digest.hexdigest()

    @property
    def trunk(self) -> ModelSpec:
        """The stack that reads a text: the encoder, or the only one."""
        return self.spec if self.spec.encoder is None else self.spec.encoder


def read_origin(folder: str | Path) -> Origin:
    """The model in `folder`: one of a task or of language, or a checkpoint in the Hugging Face layout.

    Of an ensemble it is the first member.

    Raises:
        CheckpointError: there is none, it is damaged, or something of it has no place in our model.
    """
    place = Path(folder)
    if is_published(place):
        published = read_published(place)
        what = f"{published.family} in the Hugging Face layout"
        return Origin(place, what, published.family, published.spec, _apart(published.spec, published.weights))
    if not isinstance(read_config(place).get("task"), dict):
        loaded = load_model(place)
        return Origin(place, "a language model", "lm", loaded.model.spec, _stacks(loaded.model))
    found = load(place)
    model = found.model.members[0] if isinstance(found.model, Ensemble) else found.model
    kind, stacks = found.fitted.task.kind, stacks_of(model)
    spec = getattr(model, "spec", None)
    if not stacks or not isinstance(spec, ModelSpec):
        raise CheckpointError(f"{place} holds a model of the task {kind!r} without layers that could be taken over")
    inside = tuple(f"{name}." for name in stacks)
    head = {name: tensor for name, tensor in weights_of(model).items() if not name.startswith(inside)}
    labels = getattr(found.fitted, "labels", getattr(found.fitted, "tags", None))
    return Origin(place, f"a model of the task {kind}", kind, spec, _stacks(model), head, labels)


def stacks_of(model: nn.Module) -> dict[str, Transformer]:
    """The stacks of layers of a model, by the names of its parts; a model that is one has the name ``."""
    if isinstance(model, Transformer):
        return {"": model}
    if isinstance(model, Ensemble):
        return {
            f"members.{number}.{name}": stack
            for number, member in enumerate(model.members)
            for name, stack in stacks_of(member).items()
        }
    return {name: part for name, part in model.named_children() if isinstance(part, Transformer)}


def _stacks(model: nn.Module) -> dict[str, Tensors]:
    found = stacks_of(model)
    if {"encoder", "decoder"} <= found.keys():
        return {name: weights_of(found[name]) for name in ("encoder", "decoder")}
    return {TRUNK: weights_of(next(iter(found.values())))}


def _apart(spec: ModelSpec, weights: Tensors) -> dict[str, Tensors]:
    """The weights of an `EncoderDecoder` by its halves, a table that both share in either."""
    if spec.encoder is None:
        return {TRUNK: weights}
    halves = {
        half: {n.removeprefix(f"{half}."): t for n, t in weights.items() if n.startswith(f"{half}.")}
        for half in ("encoder", "decoder")
    }
    if "embedding" in spec.share:
        halves["decoder"]["embedding.table"] = weights["encoder.embedding.table"]
    return dict(halves)


def spec_from(origin: Origin, stack: Stack, *, context: int, part: Literal["auto", "encoder"] = "auto") -> ModelSpec:
    """The model of a task that stands on `stack`, with the layers of `origin`.

    Where a decoder is needed that the origin does not have, it is like the encoder, but looks back only, and at the
    encoder; the data then decide the vocabulary.

    Raises:
        CheckpointError: the origin's layers cannot stand there, or know fewer places than the context asks for.
    """
    trunk = origin.trunk
    if any(layer.cross is not None for layer in trunk.layers):
        raise CheckpointError(f"{origin.folder} holds a decoder that looks at an encoder, and no encoder")
    if trunk.position == "learned" and context > trunk.context:
        raise CheckpointError(f"{origin.folder} knows {trunk.context} positions, got context={context}; use fewer")
    if stack != "encoder-decoder":
        return trunk.replace(share=_without_table(trunk))
    if origin.spec.encoder is not None and part == "auto":
        return origin.spec.replace(share=_without_table(origin.spec))
    encoder = trunk.replace(share=_without_table(trunk), head_transform=False, head_bias=False, tie_embeddings=True)
    layers = tuple(_crossing(_looking_back(layer), origin) for layer in encoder.layers)
    return encoder.replace(encoder=encoder, layers=layers, ngrams=None)  # what is written is not known beforehand


def _without_table(spec: ModelSpec) -> tuple[Any, ...]:
    return tuple(name for name in spec.share if name != "embedding")


def _looking_back(layer: LayerSpec) -> LayerSpec:
    return layer if layer.attention is None else layer.replace(attention=layer.attention.replace(mask=CAUSAL))


def _crossing(layer: LayerSpec, origin: Origin) -> LayerSpec:
    if layer.attention is None:
        raise CheckpointError(
            f"{origin.folder} has layers without attention: say how the decoder looks at the encoder, with model.layers"
        )
    return layer.replace(cross=attention("heads=1").replace(heads=layer.attention.heads))


@torch.no_grad()
def fill(
    model: nn.Module, origin: Origin, *, fitted: Fitted | None = None, part: Literal["auto", "encoder"] = "auto"
) -> frozenset[str]:
    """Copies the weights of `origin` into `model`; gives the names of those that came from there.

    Rows of the vocabulary that only the model has begin as they were drawn, about the mean of the known ones; a head
    that only it has stays as it was drawn; of learned positions the model may have fewer.

    Raises:
        CheckpointError: a weight is missing there, or has another shape.
    """
    stacks, filled = stacks_of(model), set()
    both = {"encoder", "decoder"} <= stacks.keys()
    for name, module in stacks.items():
        source = name if both and name in origin.stacks else "encoder" if "encoder" in origin.stacks else TRUNK
        if both and name == "decoder" and (source != "decoder" or part == "encoder"):
            continue
        before = f"{name}." if name else ""
        filled |= {f"{before}{own}" for own in _fill_stack(module, origin.stacks[source], origin.folder)}
    if fitted is not None and origin.head and fitted.task.kind == origin.kind:
        labels = getattr(fitted, "labels", getattr(fitted, "tags", None))
        own = {n: t for n, t in weights_of(model).items() if n in origin.head and t.shape == origin.head[n].shape}
        if labels == origin.labels and own.keys() == origin.head.keys():
            for name, tensor in own.items():
                tensor.copy_(origin.head[name])
    return frozenset(filled & weights_of(model).keys())


def _fill_stack(module: nn.Module, tensors: Tensors, folder: Path) -> list[str]:
    filled = []
    for name, own in weights_of(module).items():
        given = tensors.get(name)
        if given is None:
            if name.split(".")[0] in HEADS:
                continue
            raise CheckpointError(f"{folder / CONFIG}: the model there has no {name!r}, which this one needs")
        if own.shape == given.shape:
            own.copy_(given)
        elif _has_more_or_fewer_rows(name, own, given):
            rows = min(len(own), len(given))
            own[:rows].copy_(given[:rows])
            own[rows:] += given.mean(0)  # new tokens begin near what is known, and may stay there where it is frozen
        else:
            raise CheckpointError(
                f"{folder}: {name!r} has the shape {tuple(given.shape)}, this model needs {tuple(own.shape)}"
            )
        filled.append(name)
    return filled


def _has_more_or_fewer_rows(name: str, own: Tensor, given: Tensor) -> bool:
    """Whether it is a table for more tokens, or for fewer places."""
    if not own.ndim or own.shape[1:] != given.shape[1:]:
        return False
    more_tokens = name in ("embedding.table", "head", "head_bias") and len(own) > len(given)
    return more_tokens or (name == "embedding.places" and len(own) < len(given))
