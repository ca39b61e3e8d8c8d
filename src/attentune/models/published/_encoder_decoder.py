"""What families of encoder and decoder share: which part of one checkpoint each half reads."""

from __future__ import annotations

import torch

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


def head(state: State, spec: ModelSpec, name: str, tied_to: str) -> dict[str, Tensor]:
    """The head of the decoder; where it is not tied but the checkpoint holds none, it begins as the embeddings."""
    if spec.tie_embeddings:
        state.same(name, tied_to)
        return {}
    return {"head": state.take(name if name in state else tied_to)}
