"""Tokenizers of tasks: they give texts back, keep special tokens apart, and are read from files as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data.subwords import SPECIAL, Kind, SubwordTokenizer
from attentune.errors import CheckpointError, DataError

TEXTS = ["Ein Hund läuft über den Strand.", "Der Hund läuft zum Haus.", "我们去海边。", "我们去学校。"] * 3
ODD = ["", "   ", "Ein Hund läuft.", "我们去海边。", "🙂 \u200b x\ud800y", "<pad> </s> <s>", "a" * 5000, "\x00\t\n"]


def trained(pieces: Kind = "bpe", *, lowercase: bool = False) -> SubwordTokenizer:
    return SubwordTokenizer.train(TEXTS, 400, pieces=pieces, lowercase=lowercase)


@pytest.mark.parametrize("pieces", ["bpe", "byte", "char"])
def test_texts_come_back(pieces: Kind) -> None:
    tokenizer = trained(pieces)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(TEXTS)] == TEXTS
    assert tokenizer.decode(tokenizer.encode("  Ein \t Hund\r\nläuft ")) == "Ein Hund läuft"


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("pieces", ["bpe", "byte", "char", "word"])
def test_no_text_is_refused_nor_becomes_a_special_token(pieces: Kind, text: str) -> None:
    ids = trained(pieces).encode(text)
    assert ids.dtype == np.int32
    assert not np.isin(ids, [number for number in range(len(SPECIAL)) if number != SubwordTokenizer.unknown]).any()
    if pieces in ("bpe", "byte"):
        assert (ids != SubwordTokenizer.unknown).all()
        assert trained(pieces).decode(ids) == " ".join(text.replace("\ud800", "?").split())


def test_merges_make_texts_shorter_and_chinese_too() -> None:
    for text in ("Ein Hund läuft", "我们去"):
        assert len(trained("bpe").encode(text)) < len(trained("byte").encode(text)) / 2


def test_what_training_did_not_see_is_unknown_to_words_and_characters() -> None:
    words, characters = trained("word"), trained("char")
    assert words.decode(words.encode("Der Hund läuft.")) == "Der Hund läuft ."
    assert (words.encode("Der Elefant läuft") == words.unknown).tolist() == [False, True, False]
    assert (characters.encode("我Q") == characters.unknown).tolist() == [False, True]


@pytest.mark.parametrize("pieces", ["bpe", "byte", "char", "word"])
def test_lower_case(pieces: Kind) -> None:
    tokenizer = trained(pieces, lowercase=True)
    assert tokenizer.encode("EIN HUND LÄUFT").tolist() == tokenizer.encode("ein hund läuft").tolist()
    plain = trained(pieces)
    assert plain.encode("EIN HUND LÄUFT").tolist() != plain.encode("ein hund läuft").tolist()


@pytest.mark.parametrize("pieces", ["bpe", "byte", "char", "word"])
def test_a_file_gives_the_same_tokenizer_and_the_library_reads_it(pieces: Kind, tmp_path: Path) -> None:
    tokenizer = trained(pieces, lowercase=True)
    tokenizer.save(tmp_path)
    again = SubwordTokenizer.load(tmp_path)
    for text in (*TEXTS, *ODD):
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    foreign = LibraryTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert foreign.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS[0]).tolist()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert {name: config[name] for name in SPECIAL} == SPECIAL


def test_the_same_texts_give_the_same_tokenizer() -> None:
    first, second = trained(), trained()
    assert [first.encode(text).tolist() for text in TEXTS] == [second.encode(text).tolist() for text in TEXTS]
    assert first.vocab_size == second.vocab_size <= 400


def test_tokens_are_shown_as_they_read() -> None:
    tokenizer = trained()
    shown = tokenizer.tokens([tokenizer.begin, *tokenizer.encode("Der Hund").tolist(), tokenizer.end])
    assert shown[0] == "<s>" and shown[-1] == "</s>" and "".join(shown[1:-1]).replace(" ", "") == "DerHund"


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocab_size must be at least 263 for bpe, got 100"):
        SubwordTokenizer.train(TEXTS, 100)
    with pytest.raises(DataError, match="nothing to make a vocabulary of"):
        SubwordTokenizer.train([], 100, pieces="word")
    with pytest.raises(DataError, match="token 401 is outside"):
        trained().decode([401])
    trained().save(tmp_path)
    content = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content.replace("</s>", "</t>"))
    with pytest.raises(CheckpointError, match=r"tokenizer.json is damaged: token 3 is not </s>"):
        SubwordTokenizer.load(tmp_path)
