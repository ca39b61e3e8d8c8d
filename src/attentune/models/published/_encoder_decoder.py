"""What families of encoder and decoder share: which part of one checkpoint each half reads."""

from __future__ import annotations

import torch

from attentune.errors import CheckpointError
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec


def attention(
    state: State, theirs: str, ours: str, names: tuple[str, str, str, str], *, bias: bool, cross: bool
) -> dict[str, Tensor]:
    """Projections of one attention; `names` are theirs of q, k, v and of the way back."""
    q, k, v, out = names
    rows = {"q": (q,), "kv": (k, v)} if cross else {"qkv": (q, k, v)}
    mapped = {}
    for end, suffix in (("weight", ""), ("bias", "_bias")) if bias else (("weight", ""),):
        for name, parts in (rows | {"out": (out,)}).items():
            mapped[f"{ours}{name}{suffix}"] = torch.cat([state.take(f"{theirs}{part}.{end}") for part in parts])
    return mapped


def joined(encoder: dict[str, Tensor], decoder: dict[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The parameters of both halves as those of one `EncoderDecoder`; a table that they share stands in it once.

    Raises:
        CheckpointError: the spec shares a table, and the halves have different ones.
    """
    table = "embedding.table"
    if "embedding" in spec.share:
        if not torch.equal(encoder[table], decoder[table]):
            raise CheckpointError("weights do not fit the spec: it shares the embeddings, and the two halves differ")
        decoder = {name: tensor for name, tensor in decoder.items() if name != table}
    halves = {"encoder": encoder, "decoder": decoder}
    return {f"{half}.{name}": tensor for half, held in halves.items() for name, tensor in held.items()}


def head(state: State, spec: ModelSpec, name: str, tied_to: str) -> dict[str, Tensor]:
    """The head of the decoder; where it is not tied but the checkpoint holds none, it begins as the embeddings."""
    if spec.tie_embeddings:
        state.same(name, tied_to)
        return {}
    return {"head": state.take(name if name in state else tied_to)}
