"""What the tokens of a library's tokenizer stand for: their bytes of text, and where words begin among them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data.vocabulary import byte_alphabet, lengths_of_bytes

Scheme = Literal["bytes", "pieces", "marked", "words", "characters"]
"""`bytes`: each sign of a token is a byte; `pieces`: `##` goes on with a word; `marked`: `▁` is a space."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_BYTES = {character: byte for byte, character in enumerate(byte_alphabet())}


def scheme_of(tokenizer: LibraryTokenizer) -> Scheme:
    """How the tokens of `tokenizer` are written."""
    content = json.loads(tokenizer.to_str())
    kinds = set(_kinds(content.get("decoder"))) | set(_kinds(content.get("pre_tokenizer")))
    model = content["model"]["type"]
    if "ByteLevel" in kinds:
        return "bytes"
    if model == "WordPiece":
        return "pieces"
    if model == "WordLevel":
        return "characters" if "Split" in kinds else "words"
    return "marked"


def _kinds(node: Any) -> list[str]:
    """The types of a step of the library, and of those that it consists of."""
    if isinstance(node, list):
        return [kind for one in node for kind in _kinds(one)]
    if not isinstance(node, dict):
        return []
    inner = [*_kinds(node.get("decoders")), *_kinds(node.get("pretokenizers"))]
    return [str(node.get("type")), *inner]


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens of a vocabulary, [V] each: bytes and characters that they hold, and what they are in a word.

    `opens` begin a word, `alone` are words by themselves (marks, Chinese characters), after `closes` one begins.
    """

    byte_lengths: NDArray[np.int32]
    character_lengths: NDArray[np.int32]
    opens: Bool[np.ndarray, " V"]
    alone: Bool[np.ndarray, " V"]
    closes: Bool[np.ndarray, " V"]

    def words(self, ids: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
        """The number of the word, from 0, that each token of a text belongs to."""
        begins = self.opens[ids] | self.alone[ids]
        begins[1:] |= self.closes[ids[:-1]]
        begins[:1] = False
        return np.cumsum(begins)


def pieces_of(tokenizer: LibraryTokenizer, *, vocab_size: int, special: tuple[int, ...]) -> Pieces:
    """What the tokens of `tokenizer` stand for; `special` ones, and numbers without a token, for no text."""
    scheme = scheme_of(tokenizer)
    held: list[bytes] = []
    opens, alone, closes = (np.zeros(vocab_size, dtype=bool) for _ in range(3))
    for number in range(vocab_size):
        token = tokenizer.id_to_token(number)
        if token is None or number in special:
            held.append(b"")
            opens[number] = closes[number] = True
            continue
        whole = _bytes(token, scheme)
        held.append(whole)
        text = whole.decode("utf-8", "replace")
        inside = text.strip()
        mark = bool(inside) and not any(letter.isalnum() or letter == "\ufffd" for letter in inside)
        alone[number] = mark or _HAN.search(inside) is not None
        closes[number] = alone[number] or text[-1:].isspace()
        if scheme == "pieces":
            opens[number] = not token.startswith("##")
        else:
            opens[number] = scheme == "words" or text[:1].isspace()
    sizes, characters = lengths_of_bytes(held)
    return Pieces(sizes, characters, opens, alone, closes)


def _bytes(token: str, scheme: Scheme) -> bytes:
    if scheme == "bytes" and all(letter in _BYTES for letter in token):
        return bytes(_BYTES[letter] for letter in token)
    if scheme == "marked":
        found = _BYTE.fullmatch(token)
        return bytes([int(found[1], 16)]) if found else token.replace("▁", " ").encode("utf-8", "replace")
    if scheme == "pieces":
        token = token.removeprefix("##")
    return token.encode("utf-8", "replace")
