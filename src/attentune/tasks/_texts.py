"""What tasks on texts have in common: cells to texts, texts to rows of tokens, rows to padded batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import BeforeValidator, Field

from attentune.data.adopted import Side, adopted_tokenizer
from attentune.data.bucketing import Buckets
from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.data.subwords import SubwordTokenizer
from attentune.errors import DataError
from attentune.kernels.layout import Layout
from attentune.shapes import Tensor
from attentune.spec.run import DataSpec
from attentune.tasks.task import Array

Column = Annotated[str, Field(min_length=1), BeforeValidator(lambda x: str(x) if isinstance(x, int) else x)]
"""The name of a column, or, where a file has no header, its number from 1 on."""

PREDICTED_TOKENS = 16_384  # of a batch in prediction, padding included


def cell(record: Record, column: str) -> Any:
    """What `record` holds there.

    Raises:
        DataError: it has no such column.
    """
    if column not in record.values:
        raise DataError(f"{record.where} has no column {column!r}; there are {', '.join(map(repr, record.values))}")
    return record[column]


def text_of(record: Record, column: str) -> str:
    """The text in `column`; nothing is an empty text.

    Raises:
        DataError: there is no such column, or it holds no text.
    """
    held = cell(record, column)
    if held is None:
        return ""
    if isinstance(held, int | float) and not isinstance(held, bool):
        return str(held)
    if not isinstance(held, str):
        raise DataError(f"{record.where}: column {column!r} holds {type(held).__name__}, where text is needed")
    return held


def label_of(record: Record, column: str) -> str:
    """The label in `column` as `Record.label` has it, without spaces around it.

    Raises:
        DataError: it is missing.
    """
    return record.label(column).strip()


def trained_tokenizer(texts: Iterable[str], data: DataSpec, side: Side | None = None) -> SubwordTokenizer:
    """The tokenizer that `data` asks for: that of a model folder, or a new one from the training texts.

    `side` is whose it is where a model may have one for its source and one for its target.
    """
    if data.tokenizer_from is not None:
        return adopted_tokenizer(data.tokenizer_from, side)
    return SubwordTokenizer.train(texts, data.vocab_size, pieces=data.tokenizer, lowercase=data.lowercase)


def warn_of_cuts(lengths: Sequence[int], context: int, what: str) -> None:
    """Counts the rows that a context leaves out the end of."""
    if long := sum(length > context for length in lengths):
        warnings.warn(
            f"{long} of {len(lengths)} {what} are longer than {context} tokens and are cut there "
            f"(the longest has {max(lengths)}; a greater --context keeps more)",
            DataWarning,
            stacklevel=3,
        )


def padded(rows: Sequence[Array], pad: int, device: torch.device) -> tuple[Int[Tensor, "B T"], Layout | None]:
    """Rows of tokens as one batch, padded behind; the layout is None where nothing is padded."""
    lengths = np.array([len(row) for row in rows])
    ids = np.full((len(rows), int(lengths.max())), pad, dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    batch = torch.from_numpy(ids).to(device, non_blocking=True)
    if int(lengths.min()) == ids.shape[1]:
        return batch, None
    valid = torch.from_numpy(np.arange(ids.shape[1]) < lengths[:, None]).to(device, non_blocking=True)
    return batch, Layout.padded(valid)


def in_batches(rows: Sequence[Array], tokens: int = PREDICTED_TOKENS) -> Iterator[list[int]]:
    """The numbers of the rows, those of like length together."""
    if rows:
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        for batch in Buckets(lengths, tokens).passed(0):
            yield batch.tolist()
