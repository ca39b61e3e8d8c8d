"""BigBird (arXiv:2007.14062), with its head for masked tokens.

    heads=12, mask=block_window(3, 64) | global_tokens(64) | random_blocks(3, block=64, length=4096)

A query sees its own block of keys and the two beside it, the first block, the last one of rows of `length` tokens, and
random blocks. The random ones are drawn anew here, layer by layer: the published weights were trained with one draw,
which the published code repeats while it trains; when it predicts it draws none, and counts the first block
`num_random_blocks` times more instead. `attention_type: original_full` is full attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attentune.models.published import _bert
from attentune.models.published._config import Config
from attentune.models.published._state import State
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec


def spec(config: Mapping[str, Any], *, length: int | None = None) -> ModelSpec:
    """The model that a `config.json` of `model_type` big_bird describes, for rows of `length` tokens.

    Without a length it is the longest row that the model has places for.

    Raises:
        SpecError: a value that is not supported, or rows of a length that blocks do not divide.
    """
    read = Config("big_bird", config)
    read.only("use_bias", True)
    depth, heads = read.size("num_hidden_layers"), read.size("num_attention_heads")
    longest, block = read.size("max_position_embeddings"), read.size("block_size", 64)
    several, rows = read.take("num_random_blocks", 3), longest if length is None else length
    sparse = read.choice("attention_type", {"block_sparse": "sparse", "original_full": ""}, "block_sparse")
    if sparse and (rows % block or rows <= (5 + 2 * several) * block):
        read.refuse(
            "block_size", block, f"rows of {rows} tokens need a multiple of it, of more than {5 + 2 * several} blocks"
        )
    masks = [""] * depth
    if sparse:
        last = ", ".join(str(place) for place in range(rows - block, rows)) + ("," if block == 1 else "")
        shown = f"block_window(3, {block}) | global_tokens({block}) | global_tokens(positions=({last}))"
        drawn = [f"random_blocks({several}, block={block}, seed={seed}, length={rows})" for seed in range(depth)]
        masks = [f", mask={shown} | {random}" if several else f", mask={shown}" for random in drawn]
    return _bert.model(
        read,
        [f"heads={heads}{mask}" for mask in masks],
        context=longest,
        scale_embeddings=read.flag("rescale_embeddings", False),
    )


def weights(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Our parameters from the tensors of `BigBirdForMaskedLM` or `BigBirdForPreTraining`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape than the spec needs.
    """
    read = State("big_bird", state, prefix="bert.", without=_bert.WITHOUT)
    mapped = _bert.embeddings(read) | _bert.layers(read, spec)
    mapped |= _bert.head(
        read,
        spec,
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
        bias="cls.predictions.bias",
    )
    return read.finish(mapped, spec)
