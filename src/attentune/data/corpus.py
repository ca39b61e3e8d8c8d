"""Documents to a corpus: split, tokeniser, token streams."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from attentune.data.builtin import NAME as BUILTIN_NAME
from attentune.data.builtin import builtin_text
from attentune.data.encoding import DataWarning
from attentune.data.files import Progress, read_documents
from attentune.data.tokenizers import Tokenizer, train_tokenizer
from attentune.data.vocabulary import TokenIds, Unknown
from attentune.errors import DataError
from attentune.spec.run import DataSpec

CorpusProgress = Callable[[str, int, int], None]
"""Told (`reading`, `tokenizer` or `encoding`; done; total) as a corpus is made."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """A stream of tokens: documents one after the other, each closed by the end of text where there are several."""

    ids: TokenIds  # [tokens]
    starts: Int64[np.ndarray, " documents"]  # where each document's first token stands in `ids`
    characters: int  # of the text
    bytes: int  # of the text in UTF-8

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Corpus:
    """What a model is trained on and measured by."""

    train: Tokens
    validation: Tokens
    tokenizer: Tokenizer
    fingerprint: str  # SHA-256 over texts and tokens: equal means that every batch is the same
    source: str  # what messages and reports call it

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.vocab_size

    @property
    def characters_per_token(self) -> float:
        """Of the validation text."""
        return self.validation.characters / len(self.validation)

    @property
    def bytes_per_token(self) -> float:
        """Of the validation text, in UTF-8."""
        return self.validation.bytes / len(self.validation)


def load_corpus(
    spec: DataSpec,
    *,
    context: int,
    tokenizer: Tokenizer | None = None,
    unknown: Unknown = "error",
    progress: CorpusProgress | None = None,
) -> Corpus:
    """Reads, splits and tokenises the text that `spec` names.

    The first `1 - spec.validation` of the characters are for training, the rest for validation (tinyshakespeare is
    thus split as nanoGPT does). Of several documents the cut is moved to the nearest end of one, unless that changed
    the validation part by more than half of it; then it stays inside a document. The split comes first: `bpe` is
    trained on the training part only. The vocabulary of `char` is that of the whole text, as nanoGPT's is, so that
    validation meets no unknown character; it learns nothing but which characters there are.

    Args:
        spec: where the text is; `path` None is the built-in text, as one document.
        context: tokens a row holds; each part must hold at least one row and the token after it.
        tokenizer: an existing one, used instead of `spec.tokenizer`.
        unknown: with an existing `char` tokenizer, whether foreign characters are an error or are left out, which a
            `DataWarning` then counts.
        progress: told how far each stage is: `reading` in bytes, `tokenizer` and `encoding` in characters.

    Raises:
        DataError: unreadable text (see `read_documents`), unknown characters, or a part shorter than one row.
        MissingExtraError: Parquet without pyarrow.
    """
    source = spec.path if spec.path is not None else BUILTIN_NAME
    if spec.path is None:
        documents = [builtin_text()]
    else:
        documents = read_documents(
            spec.path, column=spec.column, encoding=spec.encoding, progress=_stage(progress, "reading")
        )
    train, validation = split_documents(documents, spec.validation)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            spec.tokenizer,
            documents if spec.tokenizer == "char" else train,
            vocab_size=spec.vocab_size,
            progress=_stage(progress, "tokenizer"),
        )
    several = len(documents) > 1
    total = sum(map(len, documents))
    parts = []
    for name, texts in (("training", train), ("validation", validation)):
        done = sum(map(len, train)) if name == "validation" else 0
        shown = _shifted(_stage(progress, "encoding"), done, total)
        tokens = tokenize(texts, tokenizer, close_documents=several, unknown=unknown, progress=shown)
        if len(tokens) < context + 1:
            raise DataError(
                f"the {name} part of {source} has {len(tokens)} tokens but one row of context {context} needs "
                f"{context + 1}; give more text, a smaller context or another validation share (now {spec.validation})"
            )
        parts.append(tokens)
    return Corpus(parts[0], parts[1], tokenizer, _fingerprint(train, validation, parts), source)


def split_documents(documents: Sequence[str], validation: float) -> tuple[list[str], list[str]]:
    """The first `1 - validation` of the characters, and the rest; see `load_corpus` for where the cut falls."""
    ends = list(itertools.accumulate(map(len, documents)))
    total = ends[-1]
    cut = int(total * (1 - validation))
    nearest = min(ends[:-1], key=lambda end: abs(end - cut), default=cut)
    if abs(nearest - cut) <= (total - cut) / 2:
        cut = nearest
    before: list[str] = []
    after: list[str] = []
    for document, end in zip(documents, ends, strict=True):
        inside = min(max(cut - (end - len(document)), 0), len(document))
        before += [document[:inside]] if inside else []
        after += [document[inside:]] if inside < len(document) else []
    return before, after


def tokenize(
    documents: Sequence[str],
    tokenizer: Tokenizer,
    *,
    close_documents: bool | None = None,
    unknown: Unknown = "error",
    progress: Progress | None = None,
) -> Tokens:
    """The token stream of `documents`.

    Args:
        documents: texts, in order.
        tokenizer: what encodes them.
        close_documents: whether an end of text follows each document; None means where there are several. A tokenizer
            without end of text closes none.
        unknown: with `char`, whether unknown characters are an error or are left out (with a `DataWarning`).
        progress: told (characters encoded, characters in all).

    Raises:
        DataError: a character that the tokenizer does not know.
    """
    closing = len(documents) > 1 if close_documents is None else close_documents
    end = tokenizer.end_of_text if closing else None
    ending = np.array([] if end is None else [end], dtype=np.int32)
    total = sum(map(len, documents))
    parts = [np.empty(0, dtype=np.int32)]
    lengths = []
    done = 0
    for number, document in enumerate(documents, start=1):
        try:
            ids = tokenizer.encode(document, unknown=unknown, progress=_shifted(progress, done, total))
        except DataError as error:
            if len(documents) > 1:
                error.add_note(f"(in document {number})")
            raise
        parts += [ids, ending]
        lengths.append(len(ids) + len(ending))
        done += len(document)
    ids = np.concatenate(parts)
    characters = int(tokenizer.character_lengths[ids].sum(dtype=np.int64))
    if characters < total:
        warnings.warn(
            f"left out {total - characters} of {total} characters that the tokenizer does not know",
            DataWarning,
            stacklevel=2,
        )
    return Tokens(
        ids=ids,
        starts=np.cumsum([0, *lengths], dtype=np.int64)[: len(lengths)],
        characters=characters,
        bytes=int(tokenizer.byte_lengths[ids].sum(dtype=np.int64)),
    )


def _stage(progress: CorpusProgress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Reports a part's progress as that of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)


def _fingerprint(train: list[str], validation: list[str], parts: list[Tokens]) -> str:
    digest = hashlib.sha256(b"attentune corpus 1")
    for documents, tokens in zip((train, validation), parts, strict=True):
        for document in documents:
            data = document.encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        for array in (tokens.ids.astype("<i4"), tokens.starts.astype("<i8")):
            digest.update(len(array).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
