"""The tokenizer `bpe`: byte-level byte-pair encoding (arXiv:1508.07909), trained on the user's text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from attentune.data.files import Progress
from attentune.data.vocabulary import (
    END_OF_TEXT,
    TokenIds,
    Unknown,
    byte_alphabet,
    checked_ids,
    lengths_of_bytes,
    save_library_tokenizer,
    whole_characters,
)
from attentune.errors import CheckpointError

_PIECE = 1 << 16  # characters handed to the library at once
_PIECES = 16  # pieces encoded in parallel between two reports of progress
# Between a line end with no other space around it and the next word the library always separates, so that cutting
# there changes neither what it counts nor what it encodes.
_CUT = re.compile(r"(?<=\S\n)(?=\S)")


@final
class BpeTokenizer:
    """A trained byte-level BPE; every text can be encoded, and decoding gives it back exactly."""

    name = "bpe"

    def __init__(self, tokenizer: LibraryTokenizer) -> None:
        tokenizer.encode_special_tokens = True  # what looks like a special token in a text is ordinary text
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size()
        self.end_of_text: int | None = tokenizer.token_to_id(END_OF_TEXT)
        self.byte_lengths, self.character_lengths = lengths_of_bytes(self._bytes(i) for i in range(self.vocab_size))

    @classmethod
    def train(cls, documents: Sequence[str], vocab_size: int, progress: Progress | None = None) -> BpeTokenizer:
        """At most `vocab_size` tokens: 256 bytes, the end of text, and the most frequent merges of `documents`.

        Small texts give fewer: a pair is merged only when it occurs twice. `progress` is told (characters, in all).
        """
        tokenizer = LibraryTokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=byte_alphabet(),
            show_progress=False,
        )
        total = sum(map(len, documents))

        def fed() -> Iterator[str]:
            done = 0
            for document in documents:
                for piece in _pieces(document):
                    yield piece
                    done += len(piece)
                    if progress is not None:
                        progress(done, total)

        tokenizer.train_from_iterator(fed(), trainer)
        return cls(tokenizer)

    def encode(self, text: str, *, unknown: Unknown = "error", progress: Progress | None = None) -> TokenIds:
        """The tokens of `text`; half a surrogate pair, which has no bytes, is a `DataError` or skipped."""
        text = whole_characters(text, unknown)
        pieces = list(_pieces(text))
        parts = [np.empty(0, dtype=np.int32)]
        done = 0
        for start in range(0, len(pieces), _PIECES):
            some = pieces[start : start + _PIECES]
            encoded = self._tokenizer.encode_batch_fast(some, add_special_tokens=False)
            parts += [np.array(part.ids, dtype=np.int32) for part in encoded]
            done += sum(map(len, some))
            if progress is not None:
                progress(done, len(text))
        return np.concatenate(parts)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of `ids`; ends of text are left out, bytes that form no character become U+FFFD."""
        array = checked_ids(ids, self.vocab_size)
        text: str = self._tokenizer.decode(array.tolist(), skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        save_library_tokenizer(folder, self._tokenizer, name=self.name, end_of_text=self.end_of_text is not None)

    def _bytes(self, number: int) -> bytes:
        token = self._tokenizer.id_to_token(number)
        if token is None:
            raise CheckpointError(f"the tokenizer has no token {number} of {self.vocab_size}; it is damaged")
        if token == END_OF_TEXT:
            return b""
        try:
            return bytes(_BYTES[character] for character in token)
        except KeyError:
            raise CheckpointError(f"token {token!r} of the tokenizer is not made of bytes; it is damaged") from None


_BYTES = {character: byte for byte, character in enumerate(byte_alphabet())}


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at least `_PIECE` characters, cut where the library would separate anyway."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + _PIECE)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end
