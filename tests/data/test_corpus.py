"""From a spec to a corpus: where the split falls, what the tokenizer saw, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from attentune.data.corpus import Corpus, load_corpus, split_documents, tokenize
from attentune.data.encoding import DataWarning
from attentune.data.tokenizers import train_tokenizer
from attentune.errors import DataError
from attentune.spec.run import DataSpec


def folder_of(path: Path, *texts: str) -> str:
    path.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (path / f"{number}.txt").write_text(text)
    return str(path)


def file_of(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def texts_of(corpus: Corpus) -> tuple[str, str]:
    return corpus.tokenizer.decode(corpus.train.ids), corpus.tokenizer.decode(corpus.validation.ids)


@pytest.mark.parametrize(
    ("documents", "train", "validation"),
    [
        (["0123456789"], ["01234567"], ["89"]),  # inside the only document
        (["0123", "4567", "89"], ["0123", "4567"], ["89"]),  # exactly at an end
        (["012", "3456", "789"], ["012", "3456"], ["789"]),  # moved by one: half of the validation part
        (["01234", "56789"], ["01234", "567"], ["89"]),  # moving would more than double the validation part
        (["012345678", "9"], ["012345678"], ["9"]),
    ],
)
def test_where_the_cut_falls(documents: list[str], train: list[str], validation: list[str]) -> None:
    assert split_documents(documents, 0.2) == (train, validation)


def test_tinyshakespeare_splits_as_nanogpt(shared_data: Path) -> None:
    path = shared_data / "tinyshakespeare" / "input.txt"
    corpus = load_corpus(DataSpec(path=str(path)), context=64)
    text = path.read_text()
    assert (corpus.vocab_size, len(corpus.train), len(corpus.validation)) == (65, 1_003_854, 111_540)
    assert texts_of(corpus) == (text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :])
    assert corpus.tokenizer.encode("hii there").tolist() == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert corpus.characters_per_token == corpus.bytes_per_token == 1.0


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_several_documents_are_closed_by_end_of_text(tmp_path: Path, tokenizer: str) -> None:
    path = folder_of(tmp_path / "d", "aaaa bbbb", "ccéé", "ddd", "ee")
    corpus = load_corpus(DataSpec(path=path, tokenizer=tokenizer), context=2)
    end = corpus.tokenizer.end_of_text
    assert corpus.train.ids.dtype == np.int32
    assert np.flatnonzero(corpus.train.ids == end).tolist() == [*(corpus.train.starts[1:] - 1), len(corpus.train) - 1]
    assert corpus.train.starts[0] == 0
    assert len(corpus.train.starts) == 3
    assert corpus.validation.ids[-1] == end
    assert texts_of(corpus) == ("aaaa bbbbccééddd", "ee")
    assert (corpus.train.characters, corpus.train.bytes) == (16, 18)
    assert corpus.characters_per_token == 2 / 3


def test_one_document_is_not_closed(tmp_path: Path) -> None:
    corpus = load_corpus(DataSpec(path=file_of(tmp_path / "a", "abcdefghij" * 3), tokenizer="bpe"), context=1)
    assert corpus.tokenizer.end_of_text not in corpus.train.ids
    assert corpus.train.starts.tolist() == [0]


def test_bpe_never_sees_the_validation_text(tmp_path: Path) -> None:
    text = "abab " * 100 + "xyxy " * 20
    corpus = load_corpus(
        DataSpec(path=file_of(tmp_path / "a", text), tokenizer="bpe", validation=1 / 6, vocab_size=400), context=4
    )
    assert len(corpus.tokenizer.encode(" abab")) == 1
    assert len(corpus.tokenizer.encode(" xyxy")) == 5


def test_char_knows_the_characters_of_both_parts(tmp_path: Path) -> None:
    corpus = load_corpus(DataSpec(path=file_of(tmp_path / "a", "a" * 90 + "z" * 10)), context=4)
    assert corpus.vocab_size == 2
    assert texts_of(corpus) == ("a" * 90, "z" * 10)


def test_builtin_text() -> None:
    corpus = load_corpus(DataSpec(), context=64)
    assert corpus.source == "Python documentation topics"
    assert corpus.train.starts.tolist() == corpus.validation.starts.tolist() == [0]
    assert 60 < corpus.vocab_size < 200
    assert len(corpus.validation) / (len(corpus.train) + len(corpus.validation)) == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(
    ("length", "context", "message"),
    [
        (50, 64, "training part of .*short.txt has 45 tokens but one row of context 64 needs 65"),
        (500, 64, "validation part of .*short.txt has 50 tokens but one row of context 64 needs 65"),
        (1, 1, "training part of .* has 0 tokens but one row of context 1 needs 2"),
    ],
)
def test_text_shorter_than_one_context(tmp_path: Path, length: int, context: int, message: str) -> None:
    path = file_of(tmp_path / "short.txt", "ab" * (length // 2) + "c" * (length % 2))
    with pytest.raises(DataError, match=message):
        load_corpus(DataSpec(path=path), context=context)
    if length == 500:
        assert len(load_corpus(DataSpec(path=path), context=49).validation) == 50


@pytest.mark.filterwarnings("ignore:left out 9 of 36")  # the training part's
def test_foreign_text_with_an_existing_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("char", ["abc"])
    spec = DataSpec(path=file_of(tmp_path / "a", "ab€c" * 10))
    with pytest.raises(DataError, match=r"character '€' .* at position 2"):
        load_corpus(spec, context=2, tokenizer=tokenizer)
    with pytest.warns(DataWarning, match="left out 1 of 4 characters"):
        corpus = load_corpus(spec, context=2, tokenizer=tokenizer, unknown="skip")
    assert corpus.tokenizer is tokenizer
    assert texts_of(corpus)[1] == "abc"
    assert corpus.validation.characters == 3


def test_unknown_character_names_the_document() -> None:
    with pytest.raises(DataError, match=r"at position 1 .*\(in document 2\)"):
        tokenize(["ab", "b!"], train_tokenizer("char", ["ab"]))


def test_tokenizer_without_end_of_text_joins_plainly() -> None:
    tokens = tokenize(["ab", "b"], train_tokenizer("char", ["ab"]))
    assert (tokens.ids.tolist(), tokens.starts.tolist()) == ([0, 1, 1], [0, 2])


def test_fingerprint_follows_content_and_settings(tmp_path: Path) -> None:
    def fingerprint(text: str, name: str = "a", **changes: object) -> str:
        return load_corpus(
            DataSpec(path=file_of(tmp_path / name, text), **changes),
            context=4,
        ).fingerprint

    base = fingerprint("abcd" * 20)
    assert len(base) == len(hashlib.sha256().hexdigest())
    assert base == fingerprint("abcd" * 20, name="elsewhere")
    others = {
        fingerprint("abcd" * 19 + "abdc"),
        fingerprint("bcde" * 20),  # the same ids, other characters
        fingerprint("abcd" * 20, validation=0.2),
        fingerprint("abcd" * 20, tokenizer="byte"),
        fingerprint("abcd" * 20, tokenizer="bpe", vocab_size=257),
    }
    assert len(others | {base}) == 6


def test_progress_tells_every_stage_to_its_end(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = folder_of(tmp_path / "d", "ab" * 40, "cd" * 5)
    load_corpus(
        DataSpec(path=path, tokenizer="bpe"),
        context=2,
        progress=lambda name, done, total: seen.append((name, done, total)),
    )
    last = {name: (done, total) for name, done, total in seen}
    assert last == {"reading": (90, 90), "tokenizer": (80, 80), "encoding": (90, 90)}
    encoding = [done for name, done, _ in seen if name == "encoding"]
    assert encoding == sorted(encoding)
