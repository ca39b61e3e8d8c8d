"""A local checkpoint folder in the Hugging Face layout: `config.json` and `model.safetensors`, or its shards.

Only safetensors are read: `pytorch_model.bin` is a pickle, which may run code when it is opened.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import attentune.models.published
from attentune.errors import CheckpointError, SpecError, near
from attentune.models.published import bert
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec

ONE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


@dataclass(frozen=True)
class PublishedModel:
    """A model as others have published it, under our names: `spec.encoder` is there where it has an encoder too."""

    family: str
    spec: ModelSpec
    weights: dict[str, Tensor]


def families() -> list[str]:
    """The families that can be read, by their `model_type`."""
    names = [file.name for file in pkgutil.iter_modules(attentune.models.published.__path__)]
    return sorted(name for name in names if not name.startswith("_") and name != "folder")


def is_published(folder: Path) -> bool:
    """Whether `folder` looks like a checkpoint of the Hugging Face layout."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config and "format" not in config


def read_published(folder: str | Path) -> PublishedModel:
    """The model in `folder`, in float32.

    Raises:
        CheckpointError: the folder is incomplete or damaged, of a family that is not known, or something of it has no
            place in our model; the message names it.
    """
    place = Path(folder)
    try:
        config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place / CONFIG} is missing or damaged: {error}") from None
    family = str(config.get("model_type")).replace("-", "_")
    if family not in families():
        raise CheckpointError(
            f"{place} holds a model of type {family!r}, which is not known; {near(family, families())}"
        )
    module: Any = importlib.import_module(f"{attentune.models.published.__name__}.{family}")
    state = _tensors(place)
    try:
        spec: ModelSpec = (module.model_spec if hasattr(module, "model_spec") else module.spec)(config)
        if module is bert:
            spec = bert.without_head(spec, state)
        weights: dict[str, Tensor] = module.weights(state, spec)
    except (SpecError, CheckpointError) as error:
        raise CheckpointError(f"{place} cannot be mapped: {error}") from None
    return PublishedModel(family, spec, {name: tensor.contiguous() for name, tensor in weights.items()})


def _tensors(place: Path) -> dict[str, Tensor]:
    """All tensors of the folder; numbers of less precision as float32."""
    held: dict[str, Tensor] = {}
    for file in _files(place):
        try:
            held |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {error}") from None
    half = (torch.bfloat16, torch.float16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in held.items()}


def _files(place: Path) -> list[Path]:
    if (place / ONE).is_file():
        return [place / ONE]
    if (place / INDEX).is_file():
        try:
            index = json.loads((place / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(map(str, index["weight_map"].values())))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{place / INDEX} is damaged: {error}") from None
        for name in names:
            if Path(name).name != name or not (place / name).is_file():
                raise CheckpointError(f"{place} is incomplete: {name} is missing, which {INDEX} names")
        return [place / name for name in names]
    if (place / "pytorch_model.bin").is_file() or (place / "pytorch_model.bin.index.json").is_file():
        raise CheckpointError(
            f"{place} holds pytorch_model.bin, a pickle, which may run code and is never opened here; save the model "
            "anew as safetensors (in transformers: save_pretrained)"
        )
    raise CheckpointError(f"{place} is incomplete: {ONE} is missing")
