"""A trained model and its tokenizer, from the folder that a user names."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from attentune.data.encoding import DataWarning
from attentune.data.tokenizers import Tokenizer, load_tokenizer
from attentune.data.vocabulary import Unknown
from attentune.errors import SpecError
from attentune.mechanisms import load_plugin, registry
from attentune.models.checkpoint import load_model, model_folder, read_config
from attentune.models.decoder import Decoder


def load(folder: Path, *, device: str, plugin: Path | None) -> tuple[Decoder, Tokenizer]:
    """The model, on its device and ready to predict, and its tokenizer.

    Raises:
        CheckpointError: the folder is absent, damaged or foreign.
    """
    if plugin is not None:
        load_plugin(plugin, registry)
    loaded = load_model(folder)
    return loaded.decoder.to(pick_device(device)).eval(), load_tokenizer(loaded.tokenizer_folder)


def is_of_task(folder: Path) -> bool:
    """Whether the model in `folder` is one of a task, not of language. Raises CheckpointError where there is none."""
    return isinstance(read_config(model_folder(folder)).get("task"), dict)


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
