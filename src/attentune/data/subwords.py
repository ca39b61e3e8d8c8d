"""Tokenizers of tasks: pieces of text with the tokens that models of tasks need beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, final

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data.pieces import Pieces, pieces_of
from attentune.data.vocabulary import (
    TOKENIZER_CONFIG,
    TokenIds,
    byte_alphabet,
    checked_ids,
    load_library_tokenizer,
    read_json,
    save_library_tokenizer,
)
from attentune.errors import CheckpointError, DataError

Kind = Literal["bpe", "byte", "char", "word"]
SPECIAL: Final = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
    "sep_token": "<sep>",
    "cls_token": "<cls>",
}
"""How the special tokens are written in files, by their name there; their ids are 0, 1, 2 and so on."""

ADOPTED = "adopted"
"""The kind, in files, of a tokenizer whose special tokens are not numbered like ours: it came with another model."""

_BLOCK = 4096  # texts encoded in parallel at once


@final
class SubwordTokenizer:
    """Text to pieces and back, up to white space, which is one space between words and none around the text.

    `bpe` are byte pairs that training merged (arXiv:1508.07909), `byte` are bytes: every text can be written in these.
    `char` are characters, `word` are words and marks: what training did not see becomes `unknown`. With `lowercase`
    capital letters are small ones. The ids of the special tokens are the same in every tokenizer that we have trained.
    """

    name = "subword"
    pad, unknown, begin, end, mask, separator, classifier = range(7)
    framed = False  # whether its model reads texts between `classifier` and `separator`

    def __init__(
        self,
        tokenizer: LibraryTokenizer,
        *,
        special: Mapping[str, int] | None = None,
        vocab_size: int | None = None,
        framed: bool = False,
    ) -> None:
        """`special` gives the ids of the special tokens by their names in files, where they are not ours."""
        tokenizer.encode_special_tokens = True  # what looks like a special token in a text is ordinary text
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size() if vocab_size is None else vocab_size
        self.adopted = special is not None
        if special is not None:
            numbers = (special[name] for name in SPECIAL)
            self.pad, self.unknown, self.begin, self.end, self.mask, self.separator, self.classifier = numbers
        self.framed = framed
        held = (self.pad, self.unknown, self.begin, self.end, self.mask, self.separator, self.classifier)
        self.special: tuple[int, ...] = tuple(sorted(set(held)))

    @cached_property
    def pieces(self) -> Pieces:
        """What the tokens stand for."""
        return pieces_of(self._tokenizer, vocab_size=self.vocab_size, special=self.special)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 8000, *, pieces: Kind = "bpe", lowercase: bool = False
    ) -> SubwordTokenizer:
        """At most `vocab_size` tokens, the special ones among them; `byte` has all bytes, whatever the size.

        A pair is merged, and a word or character kept, where `texts` hold it at least twice; small texts give fewer.

        Raises:
            DataError: the size has no room for the 256 bytes of a `bpe`, or the texts hold nothing.
        """
        special = list(SPECIAL.values())
        if pieces == "bpe" and vocab_size < len(special) + 256:
            raise DataError(f"vocab_size must be at least {len(special) + 256} for bpe, got {vocab_size}")
        if vocab_size <= len(special):
            raise DataError(f"vocab_size must be more than {len(special)}, got {vocab_size}")
        steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        settings: dict[str, Any] = {"special_tokens": special, "show_progress": False}
        trainer: trainers.Trainer
        if pieces in ("bpe", "byte"):
            tokenizer = LibraryTokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
            size = vocab_size if pieces == "bpe" else len(special) + 256
            trainer = trainers.BpeTrainer(
                vocab_size=size, min_frequency=2, initial_alphabet=byte_alphabet(), **settings
            )
        else:
            tokenizer = LibraryTokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
            if pieces == "char":
                tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
                tokenizer.decoder = decoders.Fuse()
            else:
                tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
            trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, min_frequency=2, **settings)
        if lowercase:
            steps.append(normalizers.Lowercase())
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.train_from_iterator((_whole(text) for text in texts), trainer)
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
        if tokenizer.get_vocab_size() <= len(special):
            raise DataError(f"the texts hold no {pieces} twice: there is nothing to make a vocabulary of")
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> SubwordTokenizer:
        """What `save` wrote.

        Raises:
            CheckpointError: its files are missing, damaged, or another tokenizer's.
        """
        tokenizer, _, name = load_library_tokenizer(folder)
        if name == ADOPTED:
            return cls._load_adopted(tokenizer, folder)
        if name != cls.name:
            raise CheckpointError(f"{folder} holds a tokenizer of the kind {name!r}, where {cls.name!r} is needed")
        for number, text in enumerate(SPECIAL.values()):
            if tokenizer.token_to_id(text) != number:
                raise CheckpointError(f"{folder / 'tokenizer.json'} is damaged: token {number} is not {text}")
        return cls(tokenizer)

    @classmethod
    def _load_adopted(cls, tokenizer: LibraryTokenizer, folder: Path) -> SubwordTokenizer:
        config = read_json(folder / TOKENIZER_CONFIG)
        found = {name: tokenizer.token_to_id(str(config.get(name))) for name in SPECIAL}
        special = {name: number for name, number in found.items() if number is not None}
        size, framed = config.get("attentune_vocab_size"), config.get("attentune_framed")
        if len(special) < len(SPECIAL) or type(size) is not int or type(framed) is not bool:
            raise CheckpointError(f"{folder / TOKENIZER_CONFIG} is damaged: special tokens or sizes are missing")
        return cls(tokenizer, special=special, vocab_size=size, framed=framed)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        if not self.adopted:
            save_library_tokenizer(folder, self._tokenizer, name=self.name, special=SPECIAL)
            return
        numbers = (self.pad, self.unknown, self.begin, self.end, self.mask, self.separator, self.classifier)
        special = {
            name: str(self._tokenizer.id_to_token(number)) for name, number in zip(SPECIAL, numbers, strict=True)
        }
        more = {"attentune_vocab_size": self.vocab_size, "attentune_framed": self.framed}
        save_library_tokenizer(folder, self._tokenizer, name=ADOPTED, special=special, more=more)

    def encode(self, text: str) -> TokenIds:
        """The ids of `text`, without special tokens; none for an empty text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """The ids of each text."""
        arrays: list[TokenIds] = []
        for start in range(0, len(texts), _BLOCK):
            some = [_whole(text) for text in texts[start : start + _BLOCK]]
            encoded = self._tokenizer.encode_batch_fast(some, add_special_tokens=False)
            arrays += [np.array(each.ids, dtype=np.int32) for each in encoded]
        return arrays

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[TokenIds, Int[np.ndarray, "T 2"]]]:
        """The ids of each text, and where each token stands in it: its first character and the one after its last.

        White space around a token is none of its characters; tokens that share a character share its place.
        """
        found = []
        for start in range(0, len(texts), _BLOCK):
            some = [_whole(text) for text in texts[start : start + _BLOCK]]
            for text, encoded in zip(some, self._tokenizer.encode_batch(some, add_special_tokens=False), strict=True):
                places = np.array(_places(text, encoded.offsets), dtype=np.int64)
                found.append((np.array(encoded.ids, dtype=np.int32), places.reshape(-1, 2)))
        return found

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The text of `ids` without special tokens; bytes that form no character become U+FFFD."""
        text: str = self._tokenizer.decode(checked_ids(ids, self.vocab_size).tolist(), skip_special_tokens=True)
        return text

    def tokens(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """Each token as it would be read, such as for the axes of a picture."""
        shown = []
        for number in checked_ids(ids, self.vocab_size).tolist():
            held = self._tokenizer.id_to_token(number) or SPECIAL["unk_token"]
            shown.append(held if number in self.special else self._tokenizer.decode([number]) or held)
        return shown


def _places(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The characters of each token without the white space at its ends.

    The library tells of letters that were composed (an e and its accent) the first character alone: a token ends where
    the next begins, or white space.
    """
    places, following, latest = [], len(text), len(text)
    for start, end in reversed(offsets):
        while start < end and text[start].isspace():
            start += 1
        if start < latest:  # tokens may share a character
            following, latest = latest, start
        while end < following and not text[end].isspace():
            end += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        places.append((start, end))
    return places[::-1]


def _whole(text: str) -> str:
    """`text` with halves of surrogate pairs, which have no bytes, replaced by a question mark."""
    return text.encode("utf-8", "replace").decode()
