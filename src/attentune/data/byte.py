"""The tokenizer `byte`: a token is a byte of UTF-8; nothing is ever unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers

from attentune.data.files import Progress
from attentune.data.vocabulary import (
    END_OF_TEXT,
    TokenIds,
    Unknown,
    byte_alphabet,
    checked_ids,
    lengths_of_bytes,
    save_library_tokenizer,
)
from attentune.errors import DataError


@final
class ByteTokenizer:
    """Ids 0 to 255 are bytes, 256 closes a document."""

    name = "byte"
    vocab_size = 257
    end_of_text: int | None = 256

    def __init__(self) -> None:
        self.byte_lengths, self.character_lengths = lengths_of_bytes([*(bytes([b]) for b in range(256)), b""])

    def encode(self, text: str, *, unknown: Unknown = "error", progress: Progress | None = None) -> TokenIds:
        """The bytes of `text`; half a surrogate pair, which has none, is a `DataError` or skipped."""
        try:
            data = text.encode("utf-8", "strict" if unknown == "error" else "ignore")
        except UnicodeEncodeError as error:
            raise DataError(f"the text holds half a surrogate pair at character {error.start}; repair it") from None
        if progress is not None:
            progress(len(text), len(text))
        return np.frombuffer(data, dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of `ids`; ends of text are left out, bytes that form no character become U+FFFD."""
        array = checked_ids(ids, self.vocab_size)
        return array[array < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        vocabulary = {character: byte for byte, character in enumerate(byte_alphabet())}
        tokenizer = LibraryTokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([END_OF_TEXT])
        save_library_tokenizer(folder, tokenizer, name=self.name, end_of_text=True)
