"""A model from its spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from attentune.models.decoder import Decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.model import ModelSpec

Model = TypeVar("Model", bound=nn.Module)


def build(spec: ModelSpec, *, seed: int | None = None) -> Decoder:
    """A freshly initialised model; equal for equal seeds, and the global random state is left alone."""
    return seeded(lambda: Decoder(spec), seed)


def build_encoder_decoder(spec: ModelSpec, *, seed: int | None = None) -> EncoderDecoder:
    """The same with an encoder, which the spec describes too."""
    return seeded(lambda: EncoderDecoder(spec), seed)


def seeded(make: Callable[[], Model], seed: int | None) -> Model:
    """What `make` builds with random numbers that begin at `seed`; None takes them from where they stand."""
    if seed is None:
        return make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
