"""Choosing, training and loading a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from attentune.data.bpe import BpeTokenizer
from attentune.data.byte import ByteTokenizer
from attentune.data.char import CharTokenizer
from attentune.data.files import Progress
from attentune.data.published import PublishedTokenizer
from attentune.data.vocabulary import TokenIds, Unknown, load_library_tokenizer, vocabulary_in_order
from attentune.errors import CheckpointError, DataError, near

_NAMES = ("bpe", "byte", "char")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    `byte_lengths` and `character_lengths`, [vocab_size] int32, are what each token holds of UTF-8 bytes and of
    characters; over the tokens of a text they add up to the text's, so that a loss per token becomes one per byte
    or per character. The end of text holds none.
    """

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def end_of_text(self) -> int | None: ...
    @property
    def byte_lengths(self) -> NDArray[np.int32]: ...
    @property
    def character_lengths(self) -> NDArray[np.int32]: ...

    def encode(self, text: str, *, unknown: Unknown = "error", progress: Progress | None = None) -> TokenIds:
        """The ids of `text`, without an end of text; `progress` is told (characters, in all)."""
        ...

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of `ids`, ends of text left out."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files into `folder`."""
        ...


def train_tokenizer(
    name: str, documents: Sequence[str], *, vocab_size: int = 4096, progress: Progress | None = None
) -> Tokenizer:
    """The tokenizer `name` (`byte`, `char` or `bpe`) for `documents`; `vocab_size` concerns `bpe` only.

    Raises:
        DataError: no tokenizer of that name.
    """
    if name == "byte":
        return ByteTokenizer()
    if name == "char":
        return CharTokenizer.train(documents)
    if name == "bpe":
        return BpeTokenizer.train(documents, vocab_size, progress)
    raise DataError(f"no tokenizer is called {name!r}; {near(name, _NAMES)}")


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer that was saved into `folder`.

    Raises:
        CheckpointError: its files are missing, damaged, or not Attentune's.
    """
    place = Path(folder)
    tokenizer, model, name = load_library_tokenizer(place)
    if name == "byte":
        return ByteTokenizer()
    if name == "bpe":
        return BpeTokenizer(tokenizer)
    if name == PublishedTokenizer.name:
        return PublishedTokenizer.load(tokenizer, place)
    if name == "char":
        characters = vocabulary_in_order(model, place)
        if any(len(character) != 1 for character in characters):
            raise CheckpointError(f"{place / 'tokenizer.json'} is damaged: a token of it is not one character")
        return CharTokenizer(characters, end_of_text=tokenizer.get_vocab_size() > len(characters))
    raise CheckpointError(f"{place} holds a tokenizer of the unknown kind {name!r}; {near(name, _NAMES)}")
