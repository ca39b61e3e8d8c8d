"""What the tokenizers share: the byte alphabet, token lengths, and their two files.

`tokenizer.json` is the format of the library `tokenizers`, so that other programs load it as it is;
`tokenizer_config.json` stands beside it, as in Hugging Face model folders, and says which of ours it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.errors import CheckpointError, DataError
from attentune.models.storage import atomic_write

END_OF_TEXT = "<|endoftext|>"
"""How the token that closes a document is written in files; in text it is ordinary characters."""

TokenIds = Int32[np.ndarray, " tokens"]
Unknown = Literal["error", "skip"]
"""What to do with a character outside the vocabulary."""

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def byte_alphabet() -> list[str]:
    """The character that stands for each of the 256 bytes in byte-level vocabularies (as in GPT-2's files).

    Bytes that print as one visible Latin-1 character stand for themselves, the others for U+0100 onwards.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def lengths_of_bytes(tokens: Iterable[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Bytes and characters of each token, [vocabulary] each.

    A character counts where its first byte stands, so that the counts of a text's tokens add up to its characters
    even where a token holds a part of one.
    """
    tokens = list(tokens)
    sizes = [len(token) for token in tokens]
    characters = [sum(byte & 0xC0 != 0x80 for byte in token) for token in tokens]
    return np.array(sizes, dtype=np.int32), np.array(characters, dtype=np.int32)


def whole_characters(text: str, unknown: Unknown) -> str:
    """`text`; half a surrogate pair, which has no bytes, is a `DataError` or skipped."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if unknown == "error":
            raise DataError(f"the text holds half a surrogate pair at character {error.start}; repair it") from None
        return text.encode("utf-8", "ignore").decode()
    return text


def checked_ids(ids: Sequence[int] | NDArray[np.integer[Any]], vocab_size: int) -> NDArray[np.int64]:
    """`ids` as an array.

    Raises:
        DataError: one of them is outside the vocabulary.
    """
    array = np.asarray(ids, dtype=np.int64)
    if array.size and (int(array.min()) < 0 or int(array.max()) >= vocab_size):
        wrong = array[(array < 0) | (array >= vocab_size)][0]
        raise DataError(f"token {wrong} is outside the vocabulary of {vocab_size} tokens")
    return array


def save_library_tokenizer(
    folder: Path,
    tokenizer: LibraryTokenizer,
    *,
    name: str,
    end_of_text: bool = False,
    special: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes both files, `tokenizer.json` last: where it stands, the other does.

    `special` are special tokens by their Hugging Face names, such as `pad_token`, for other programs to know. `more` is
    what else the configuration shall say.

    Raises:
        StorageError: the folder cannot be written.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "attentune_tokenizer": name,
        **(special or {}),
        **(more or {}),
    }
    if end_of_text:
        config["eos_token"] = END_OF_TEXT
    atomic_write(folder / TOKENIZER_CONFIG, json.dumps(config, indent=2) + "\n")
    atomic_write(folder / TOKENIZER, tokenizer.to_str(pretty=True) + "\n")


def load_library_tokenizer(folder: Path) -> tuple[LibraryTokenizer, dict[str, Any], str]:
    """The tokenizer in `folder`, its `model` section, and which of ours wrote it.

    Raises:
        CheckpointError: a file is missing, damaged, or not ours.
    """
    config = read_json(folder / TOKENIZER_CONFIG)
    name = config.get("attentune_tokenizer")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{folder / TOKENIZER_CONFIG} was not written by Attentune: it lacks 'attentune_tokenizer'"
        )
    content = read_json(folder / TOKENIZER)
    try:
        tokenizer = LibraryTokenizer.from_str(json.dumps(content))
        model = content["model"]
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise _damaged(folder / TOKENIZER, str(error)) from None
    if name == "bpe" and (content.get("decoder") or {}).get("type") != "ByteLevel":
        raise _damaged(folder / TOKENIZER, "it is not a byte-level tokenizer")
    return tokenizer, model, name


def vocabulary_in_order(model: dict[str, Any], folder: Path) -> list[str]:
    """The tokens of a `model` section by their ids.

    Raises:
        CheckpointError: the ids are not 0, 1, 2 and so on.
    """
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise _damaged(folder / TOKENIZER, "its token ids are not 0, 1, 2 and so on")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; give the folder that a tokenizer was saved to") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no JSON object")
    return content


def _damaged(path: Path, why: str) -> CheckpointError:
    line = why.splitlines()[0] if why else "unreadable"
    return CheckpointError(f"{path} is damaged: {line}; restore it, or train the model again")
