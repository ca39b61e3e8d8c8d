"""Tokenizers in the files of BERT, GPT-2 and Marian, made small, and the configurations of the models beside them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, pre_tokenizers, trainers

from attentune.data.vocabulary import byte_alphabet

WORDS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "play", "##ing", "##s", ".", "[", "]"]
TEXTS = ["the cat sat on the mat", "the dog sat by the cat", "ein Hund läuft"] * 3


def bert(folder: Path) -> Path:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 20}))
    return folder


def gpt2(folder: Path) -> Path:
    tokenizer = LibraryTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=byte_alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.model.save(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": tokenizer.get_vocab_size()}))
    return folder


def number(value: int) -> bytes:
    """A whole number as protocol buffers write it."""
    held = []
    while value > 0x7F:
        held.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*held, value])


def message(place: int, body: bytes) -> bytes:
    return number(place << 3 | 2) + number(len(body)) + body


def sentence_pieces(pieces: list[tuple[str, float, int]], kind: int = 1) -> bytes:
    """A file of SentencePiece with these pieces, their scores and types."""
    rows = [
        message(1, text.encode()) + number(2 << 3 | 5) + struct.pack("<f", score) + number(3 << 3) + number(one)
        for text, score, one in pieces
    ]
    trainer = message(2, number(3 << 3) + number(kind))
    normalizer = message(3, number(3 << 3) + number(1) + number(4 << 3) + number(1))
    return b"".join(message(1, row) for row in rows) + trainer + normalizer


def marian(folder: Path, kind: int = 1) -> Path:
    source = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("▁the", -1.0, 1),
        ("▁ca", -3.0, 1),
        ("ts", -3.0, 1),
    ]
    target = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁die", -1.0, 1), ("▁Katzen", -2.0, 1)]
    for side, pieces in (("source", source), ("target", target)):
        (folder / f"{side}.spm").write_bytes(sentence_pieces(pieces, kind))
    names = ["</s>", "<unk>", "▁die", "▁the", "ts", "▁ca", "▁Katzen", "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: place for place, name in enumerate(names)}))
    about = {"model_type": "marian", "vocab_size": 8, "decoder_start_token_id": 7}
    (folder / "config.json").write_text(json.dumps(about))
    return folder
