"""A model from its spec."""

from __future__ import annotations

import torch

from attentune.models.decoder import Decoder
from attentune.spec.model import ModelSpec


def build(spec: ModelSpec, *, seed: int | None = None) -> Decoder:
    """A freshly initialised model; equal for equal seeds, and the global random state is left alone."""
    if seed is None:
        return Decoder(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Decoder(spec)
