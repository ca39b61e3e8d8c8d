"""Small decoders in float64, and how they are taught and asked: what the tests of models begin with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.decoder import Decoder
from attentune.spec.model import ModelSpec

VOCABULARY, WIDTH = 17, 16


def decoder(*layers: str, depth: int = 2, seed: int = 0, **changes: object) -> Decoder:
    """A decoder in float64, moved away from its small first weights so that every part matters."""
    fields = {"vocab_size": VOCABULARY, "width": WIDTH, "depth": depth, "context": 32, **changes}
    spec = ModelSpec(layers=tuple(layer(text) for text in layers), **fields)  # type: ignore[arg-type]
    model = build(spec, seed=seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.15 * noise)
    return model.eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def context_for(model: Decoder, rows: int, *, length: int = 5) -> Tensor | None:
    """What cross-attention looks at, where the model has any."""
    if not model.has_cross:
        return None
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def loss_of(model: Decoder, ids: Tensor) -> Tensor:
    parameter = next(model.parameters())
    context = context_for(model, ids.shape[0])
    context = None if context is None else context.to(parameter.dtype)
    logits = model(ids[:, :-1], context=context).logits
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def in_chunks(model: Decoder, ids: Tensor, chunks: Sequence[int], **first: object) -> Tensor:
    """Logits of `ids` computed piece by piece on a state; `first` goes to the first call alone."""
    state = model.start(ids.shape[0])
    parts = []
    with torch.no_grad():
        for place, piece in enumerate(ids.split(list(chunks), 1)):
            out = model(piece, state=state, **(first if place == 0 else {}))
            parts.append(out.logits)
    return torch.cat(parts, 1)
