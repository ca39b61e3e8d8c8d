"""A published model with random weights beside ours with the same weights: equal logits, equal gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from attentune.models.build import build, build_encoder_decoder
from attentune.models.decoder import Decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec

TOLERANCE = 1e-4
Weights = Callable[[Mapping[str, Tensor], ModelSpec], dict[str, Tensor]]


def published(kind: type[Any], config: Any, *, seed: int = 0) -> Any:
    """A model with every parameter random: what is 0 or 1 at first hides errors."""
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """What its checkpoint would hold, tied tensors under all of their names, each with its gradient."""
    saved = model.state_dict()
    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {name: held.get(name, tensor) for name, tensor in saved.items()}


def ours(spec: ModelSpec, mapped: dict[str, Tensor]) -> Decoder:
    """Our model with the weights that the reader gave."""
    model = build(spec, seed=1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(mapped[name])
    return model


def ours_whole(spec: ModelSpec, mapped: dict[str, Tensor]) -> EncoderDecoder:
    """The same for both halves of an encoder-decoder."""
    model = build_encoder_decoder(spec, seed=1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(mapped[name])
    return model


def rows(vocabulary: int, *shape: int, seed: int = 2) -> Tensor:
    return torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def loss_of(logits: Tensor) -> Tensor:
    """A sum over logits with random weights, so that no gradient is small."""
    return (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))).sum()


def assert_equal(name: str, mine: Tensor, published: Tensor) -> None:
    error, size = (mine - published).abs().max().item(), published.abs().max().item()
    assert error <= TOLERANCE * max(size, 1.0), f"{name}: differs by {error:.2e}, values to {size:.2e}"


def assert_equal_gradients(model: nn.Module, pairs: list[tuple[Decoder | EncoderDecoder, dict[str, Tensor]]]) -> None:
    """Gradients of our parameters, carried back through the reader to the names of the published model.

    The reader is linear: its adjoint takes concatenations, transpositions, sums and ties apart again.
    """
    carried = torch.zeros(())
    for decoder, mapped in pairs:
        for name, parameter in decoder.named_parameters():
            if parameter.grad is not None:
                carried = carried + (mapped[name] * parameter.grad).sum()
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(carried, list(names.values()), allow_unused=True)
    compared = 0
    for (name, parameter), gradient in zip(names.items(), found, strict=True):
        if parameter.grad is None:
            assert gradient is None or not gradient.any(), f"{name} has a gradient with us alone"
            continue
        assert gradient is not None or not parameter.grad.any(), f"{name} has no gradient with us"
        if gradient is not None:
            assert_equal(name, gradient, parameter.grad)
            compared += bool(parameter.grad.abs().max() > 0.01)
    assert compared > 0.7 * len(names), f"only {compared} of {len(names)} gradients say something"


def assert_same(model: Any, spec: ModelSpec, weights: Weights, ids: Tensor, **call: Any) -> Decoder:
    """Logits and gradients of a model that reads one sequence. `call` is what theirs also needs."""
    mapped = weights(state_of(model), spec)
    mine = ours(spec, mapped)
    theirs = model(input_ids=ids, **call).logits
    logits = mine(ids).logits
    assert theirs.std() > 0.1
    assert_equal("logits", logits, theirs)
    model.zero_grad()
    loss_of(theirs).backward()
    loss_of(logits).backward()
    assert_equal_gradients(model, [(mine, mapped)])
    return mine


@torch.no_grad()
def difference(mine: Decoder, spec: ModelSpec, ids: Tensor) -> float:
    """How far our logits are from those of the same weights under another spec."""
    changed = build(spec, seed=0).eval()
    changed.load_state_dict(mine.state_dict())
    return (changed(ids).logits - mine(ids).logits).abs().max().item()
