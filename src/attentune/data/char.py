"""The tokenizer `char`: a token is a character (Unicode code point) that the user's text holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data.files import Progress
from attentune.data.vocabulary import END_OF_TEXT, TokenIds, Unknown, checked_ids, save_library_tokenizer
from attentune.errors import DataError


@final
class CharTokenizer:
    """The sorted distinct characters of a text, and after them `end_of_text` where there were several documents.

    There is no symbol for unknown characters: one text of 65 symbols makes a vocabulary of exactly 65. Text with
    other characters is encoded with `unknown="skip"`, which leaves them out.
    """

    name = "char"

    def __init__(self, characters: Sequence[str], *, end_of_text: bool) -> None:
        self.characters = tuple(characters)
        self.vocab_size = len(self.characters) + end_of_text
        self.end_of_text: int | None = len(self.characters) if end_of_text else None
        codes = np.array([ord(character) for character in self.characters], dtype=np.int64)
        # One slot more than the largest code, for every code beyond it.
        self._ids = np.full(int(codes.max(initial=-1)) + 2, -1, dtype=np.int32)
        self._ids[codes] = np.arange(len(codes), dtype=np.int32)
        written = [*self.characters, *([""] if end_of_text else [])]
        self._written = np.array(written, dtype=object)
        self.byte_lengths = np.array([len(text.encode("utf-8", "surrogatepass")) for text in written], dtype=np.int32)
        self.character_lengths = np.array([len(text) for text in written], dtype=np.int32)

    @classmethod
    def train(cls, documents: Iterable[str]) -> CharTokenizer:
        """The vocabulary of `documents`."""
        documents = list(documents)
        characters = sorted(set().union(*documents))
        return cls(characters, end_of_text=len(documents) > 1)

    def encode(self, text: str, *, unknown: Unknown = "error", progress: Progress | None = None) -> TokenIds:
        """The characters of `text`.

        Raises:
            DataError: a character outside the vocabulary, unless `unknown` is `skip`.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        if ids.size and int(ids.min()) < 0:
            if unknown == "error":
                position = int(np.argmax(ids < 0))
                character = text[position]
                raise DataError(
                    f"character {character!r} (U+{ord(character):04X}) at position {position} is not among the "
                    f"{len(self.characters)} that this char tokenizer knows; leave such characters out with "
                    "unknown='skip' (--unknown skip), or train with the tokenizer byte or bpe"
                )
            ids = ids[ids >= 0]
        if progress is not None:
            progress(len(text), len(text))
        return ids

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of `ids`; ends of text are left out."""
        return "".join(self._written[checked_ids(ids, self.vocab_size)])

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        vocabulary = {character: number for number, character in enumerate(self.characters)}
        tokenizer = LibraryTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        if self.end_of_text is not None:
            tokenizer.add_special_tokens([END_OF_TEXT])
        save_library_tokenizer(folder, tokenizer, name=self.name, end_of_text=self.end_of_text is not None)
