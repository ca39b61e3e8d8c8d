"""The tokenizer of a published language model, with the token that ends its texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data.files import Progress
from attentune.data.pieces import pieces_of
from attentune.data.vocabulary import (
    TOKENIZER_CONFIG,
    TokenIds,
    Unknown,
    checked_ids,
    read_json,
    save_library_tokenizer,
    whole_characters,
)
from attentune.errors import CheckpointError


@final
class PublishedTokenizer:
    """Text to the tokens of a model in the Hugging Face layout; `end_of_text` is what it calls the end of a sequence.

    `vocab_size` counts the rows of the model's table, of which the last may stand for nothing. Tokens that the
    library puts around texts for other purposes are not.
    """

    name = "published"

    def __init__(self, tokenizer: LibraryTokenizer, *, vocab_size: int, end: str | None) -> None:
        tokenizer.encode_special_tokens = True  # what looks like a special token in a text is ordinary text
        self._tokenizer, self._end = tokenizer, end
        self.vocab_size = vocab_size
        self.end_of_text: int | None = None if end is None else tokenizer.token_to_id(end)
        special = tuple(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        if self.end_of_text is not None:
            special = (*special, self.end_of_text)
        pieces = pieces_of(tokenizer, vocab_size=vocab_size, special=special)
        self.byte_lengths, self.character_lengths = pieces.byte_lengths, pieces.character_lengths

    def encode(self, text: str, *, unknown: Unknown = "error", progress: Progress | None = None) -> TokenIds:
        """The tokens of `text`; half a surrogate pair, which has no bytes, is a `DataError` or skipped."""
        text = whole_characters(text, unknown)
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        if progress is not None:
            progress(len(text), len(text))
        return np.array(encoded.ids, dtype=np.int32)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of `ids` without special tokens; bytes that form no character become U+FFFD."""
        text: str = self._tokenizer.decode(checked_ids(ids, self.vocab_size).tolist(), skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        special = {} if self._end is None else {"eos_token": self._end}
        more = {"attentune_vocab_size": self.vocab_size}
        save_library_tokenizer(folder, self._tokenizer, name=self.name, special=special, more=more)

    @classmethod
    def load(cls, tokenizer: LibraryTokenizer, folder: Path) -> PublishedTokenizer:
        """What `save` wrote, of which `tokenizer` has been read.

        Raises:
            CheckpointError: its configuration is damaged.
        """
        config = read_json(folder / TOKENIZER_CONFIG)
        size, end = config.get("attentune_vocab_size"), config.get("eos_token")
        if type(size) is not int or not isinstance(end, str | None):
            raise CheckpointError(f"{folder / TOKENIZER_CONFIG} is damaged: the size or the end of text is missing")
        return cls(tokenizer, vocab_size=size, end=end)
