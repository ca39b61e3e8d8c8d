"""A trained model and its tokenizer, from the folder that a user names."""

from __future__ import annotations

from pathlib import Path

import torch

from attentune.data.tokenizers import Tokenizer, load_tokenizer
from attentune.errors import SpecError
from attentune.mechanisms import load_plugin, registry
from attentune.models.checkpoint import load_model
from attentune.models.decoder import Decoder


def load(folder: Path, *, device: str, plugin: Path | None) -> tuple[Decoder, Tokenizer]:
    """The model, on its device and ready to predict, and its tokenizer.

    Raises:
        CheckpointError: the folder is absent, damaged or foreign.
    """
    if plugin is not None:
        load_plugin(plugin, registry)
    loaded = load_model(folder)
    return loaded.model.to(pick_device(device)).eval(), load_tokenizer(loaded.tokenizer_folder)


def pick_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one. Raises `SpecError` where CUDA is asked for in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("device=cuda, but PyTorch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
