"""Files of SentencePiece (arXiv:1808.06226), read without its library: a protocol buffer of pieces and a normalizer.

The vocabulary beside it, as Marian has one for both languages, gives the numbers of the pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.errors import CheckpointError

UNIGRAM = 1  # of TrainerSpec.ModelType
FOREIGN = -100.0  # score of a token of the vocabulary that this file has no piece of: it is never the likeliest
_UNKNOWN, _CONTROL = 2, 3  # of SentencePiece.Type


def read_sentence_pieces(path: Path, numbers: Mapping[str, Any]) -> LibraryTokenizer:
    """The tokenizer in the file `path`, whose pieces have these `numbers`.

    Raises:
        CheckpointError: the file is damaged or holds no unigram model, or numbers are missing.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(body) for number, body in fields if number == 1]
        trainer, normalizer = (dict(_fields(_last(fields, number))) for number in (2, 3))
    except (OSError, ValueError, IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(f"{path} is no file of SentencePiece: {error}") from None
    if trainer.get(3, UNIGRAM) != UNIGRAM:
        raise CheckpointError(f"{path} is no unigram model of SentencePiece, the only kind that is read here")
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise CheckpointError(f"{path.parent / 'vocab.json'} is damaged: its numbers are not 0, 1, 2 and so on")
    scores = {piece: score for piece, score, kind in pieces if kind not in (_UNKNOWN, _CONTROL)}
    unknown = next((piece for piece, _, kind in pieces if kind == _UNKNOWN), "<unk>")
    if unknown not in numbers:
        raise CheckpointError(f"{path.parent / 'vocab.json'} has no number for {unknown!r}")
    ordered = sorted(numbers, key=numbers.__getitem__)
    rows = [(piece, scores.get(piece, FOREIGN)) for piece in ordered]
    tokenizer = LibraryTokenizer(models.Unigram(rows, unk_id=numbers[unknown], byte_fallback=False))
    steps: list[Any] = []
    charsmap = normalizer.get(2, b"")
    if isinstance(charsmap, bytes) and charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    if normalizer.get(4, 1):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = "always" if normalizer.get(3, 1) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prefix)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=prefix)
    return tokenizer


def _piece(body: int | bytes) -> tuple[str, float, int]:
    """The text, score and type of a piece."""
    if not isinstance(body, bytes):
        raise ValueError("a piece is no message")
    held = dict(_fields(body))
    text, score, kind = held.get(1, b""), held.get(2, b"\0\0\0\0"), held.get(3, 1)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise ValueError("a piece has fields of another type")
    return text.decode("utf-8"), float(struct.unpack("<f", score)[0]), kind


def _last(fields: list[tuple[int, int | bytes]], number: int) -> bytes:
    bodies = [body for found, body in fields if found == number and isinstance(body, bytes)]
    return bodies[-1] if bodies else b""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers with whole numbers, or the bytes of fixed and long values."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(data):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            if wire != 2:
                raise ValueError(f"a field has the unknown wire type {wire}")
            size = varint()
        if place + size > len(data):
            raise ValueError("it ends too soon")
        yield number, data[place : place + size]
        place += size
