"""A trained model and its tokenizer, from the folder that a user names."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from attentune.cli.words import UsageError
from attentune.data.encoding import DataWarning
from attentune.data.tokenizers import Tokenizer, load_tokenizer
from attentune.data.vocabulary import Unknown
from attentune.errors import CheckpointError, SpecError
from attentune.mechanisms import load_plugin, registry
from attentune.models.checkpoint import CONFIG, load_model, read_config
from attentune.models.decoder import Decoder

INSIDE = {"train": "model", "optimize": "best"}  # where in its folder a command leaves the model
BEGUN = {"checkpoints": "train", "study.db": "optimize"}  # what it leaves there before


def load(folder: Path, *, device: str, plugin: Path | None) -> tuple[Decoder, Tokenizer]:
    """The model, on its device and ready to predict, and its tokenizer.

    Raises:
        CheckpointError: the folder is absent, damaged or foreign.
    """
    if plugin is not None:
        load_plugin(plugin, registry)
    loaded = load_model(model_folder(folder))
    return loaded.decoder.to(pick_device(device)).eval(), load_tokenizer(loaded.tokenizer_folder)


def is_of_task(folder: Path) -> bool:
    """Whether the model in `folder` is one of a task, not of language. Raises CheckpointError where there is none."""
    return isinstance(read_config(model_folder(folder)).get("task"), dict)


def model_folder(folder: Path) -> Path:
    """The folder of the model that `folder` is or, as what `train` or `optimize` has left behind, holds.

    Raises:
        UsageError: it holds two models.
        CheckpointError: the training or study in it has no model yet.
    """
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return folder
    inside = [folder / name for name in INSIDE.values() if (folder / name).is_dir()]
    if len(inside) > 1:
        raise UsageError(f"{folder} holds two models; name one of them: {' or '.join(map(str, inside))}")
    if inside:
        return inside[0]
    for begun, command in BEGUN.items():
        if (folder / begun).exists():
            raise CheckpointError(
                f"{folder} holds no model yet: `attentune {command}` has not ended there; the same command goes on"
            )
    return folder


def known_text(text: str, tokenizer: Tokenizer, *, unknown: Unknown, of: str) -> str:
    """`text`, without the characters that the tokenizer does not know where these are to be skipped, with a warning.

    Raises:
        DataError: there are some, and they are not to be skipped.
    """
    ids = tokenizer.encode(text, unknown=unknown)
    known = text if unknown == "error" else tokenizer.decode(ids)
    if left_out := len(text) - len(known):
        warnings.warn(
            f"left out {left_out} of {len(text)} characters of {of} that the tokenizer does not know",
            DataWarning,
            stacklevel=2,
        )
    return known


def pick_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one. Raises `SpecError` where CUDA is asked for in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("device=cuda, but PyTorch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
