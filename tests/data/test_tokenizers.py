"""Tokenizers: exact ids, round trips, files, and what damaged files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer

from attentune.data import bpe
from attentune.data.bpe import BpeTokenizer
from attentune.data.byte import ByteTokenizer
from attentune.data.char import CharTokenizer
from attentune.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from attentune.data.vocabulary import END_OF_TEXT
from attentune.errors import CheckpointError, DataError, StorageError

TEXT = "the cat sat on the mat.\nthe bat ate the rat\n\nBäume sind grün ☃ 𝄞 𝄞\n" * 8
NAMES = ["byte", "char", "bpe"]


def trained(name: str, documents: tuple[str, ...] = (TEXT, "ein zweites")) -> Tokenizer:
    return train_tokenizer(name, documents, vocab_size=300)


def test_byte_ids_are_utf8() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert tokenizer.encode("aé").dtype == np.int32
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (257, 256)
    assert tokenizer.decode([97, 256, 0xC3, 0xA9, 256]) == "aé"
    assert tokenizer.decode([0xC3]) == "\ufffd"


def test_char_ids_are_sorted_distinct_characters() -> None:
    tokenizer = CharTokenizer.train(["hello"])
    assert (tokenizer.characters, tokenizer.vocab_size, tokenizer.end_of_text) == (("e", "h", "l", "o"), 4, None)
    assert tokenizer.encode("hole").tolist() == [1, 3, 2, 0]
    several = CharTokenizer.train(["he", "lo"])
    assert (several.vocab_size, several.end_of_text) == (5, 4)
    assert several.decode([1, 4, 0]) == "he"


def test_char_refuses_or_skips_foreign_characters() -> None:
    tokenizer = CharTokenizer.train(["abc"])
    for foreign in ("b€a", "b!a", "b𝄞a"):
        with pytest.raises(DataError, match=r"at position 1 is not among the 3 .* unknown='skip'"):
            tokenizer.encode(foreign)
        assert tokenizer.encode(foreign, unknown="skip").tolist() == [1, 0]
    with pytest.raises(DataError, match=r"character '€' \(U\+20AC\)"):
        tokenizer.encode("a€")


def test_bpe_merges_what_is_frequent() -> None:
    tokenizer = train_tokenizer("bpe", ["abab abab abab"], vocab_size=260)
    assert tokenizer.vocab_size == 260
    assert len(tokenizer.encode("abab")) == 1
    assert len(tokenizer.encode("xyz")) == 3


def test_bpe_learns_the_same_every_time() -> None:
    first, second = (trained("bpe"), trained("bpe"))
    assert first.encode(TEXT).tolist() == second.encode(TEXT).tolist()


def test_bpe_takes_a_special_word_in_a_text_as_text() -> None:
    tokenizer = trained("bpe")
    ids = tokenizer.encode(f"a{END_OF_TEXT}b")
    assert tokenizer.end_of_text is not None
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == f"a{END_OF_TEXT}b"
    assert tokenizer.decode([*ids.tolist(), tokenizer.end_of_text]) == f"a{END_OF_TEXT}b"


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab \n\t\r.'s1é\u2028\x1c𝄞"), max_size=60))
def test_cutting_a_text_into_pieces_changes_no_token(text: str) -> None:
    tokenizer = _BPE
    whole = tokenizer.encode(text).tolist()
    before = bpe._PIECE
    bpe._PIECE = 2
    try:
        assert "".join(bpe._pieces(text)) == text
        assert tokenizer.encode(text).tolist() == whole
    finally:
        bpe._PIECE = before


_BPE = trained("bpe")


def test_bpe_progress_reaches_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "_PIECE", 20)
    seen: list[tuple[int, int]] = []
    tokenizer = BpeTokenizer.train([TEXT, "x"], 300, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXT) + 1, len(TEXT) + 1)
    assert len(seen) > 5
    seen.clear()
    tokenizer.encode(TEXT, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXT), len(TEXT))


@pytest.mark.parametrize("name", ["byte", "bpe"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=50))
def test_any_text_comes_back_and_lengths_add_up(name: str, text: str) -> None:
    tokenizer = ByteTokenizer() if name == "byte" else _BPE
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    assert tokenizer.character_lengths[ids].sum() == len(text)


def test_char_lengths() -> None:
    tokenizer = CharTokenizer.train(["aé☃𝄞", "a"])
    assert tokenizer.byte_lengths.tolist() == [1, 2, 3, 4, 0]
    assert tokenizer.character_lengths.tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("documents", [(TEXT,), (TEXT, "ein zweites")])
def test_saved_and_loaded(tmp_path: Path, name: str, documents: tuple[str, ...]) -> None:
    tokenizer = trained(name, documents)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, Tokenizer)
    assert (loaded.name, loaded.vocab_size, loaded.end_of_text) == (name, tokenizer.vocab_size, tokenizer.end_of_text)
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert loaded.decode(loaded.encode(TEXT)) == TEXT
    assert loaded.byte_lengths.tolist() == tokenizer.byte_lengths.tolist()
    assert loaded.character_lengths.tolist() == tokenizer.character_lengths.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_other_programs_read_the_file_alike(tmp_path: Path, name: str) -> None:
    tokenizer = trained(name)
    tokenizer.save(tmp_path)
    library = LibraryTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(TEXT)
    assert library.encode(TEXT).ids == ids.tolist()
    assert library.decode(ids.tolist()) == TEXT
    assert library.get_vocab_size() == tokenizer.vocab_size
    assert library.token_to_id(END_OF_TEXT) == tokenizer.end_of_text
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == END_OF_TEXT


def damage_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["too long"] = 999
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    trained(name).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"\x00\xff\xfe", b"[]", b"{}", b""):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged: .*restore it") as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)


def test_damaged_vocabularies(tmp_path: Path) -> None:
    trained("char").save(tmp_path)
    damage_vocabulary(tmp_path)
    with pytest.raises(CheckpointError, match="ids are not 0, 1, 2"):
        load_tokenizer(tmp_path)
    trained("bpe").save(tmp_path)
    damage_vocabulary(tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        load_tokenizer(tmp_path)


def test_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is missing"):
        load_tokenizer(tmp_path / "nowhere")
    trained("char").save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    with pytest.raises(CheckpointError, match="not written by Attentune"):
        load_tokenizer(tmp_path)
    config.write_text('{"attentune_tokenizer": "chars"}')
    with pytest.raises(CheckpointError, match="unknown kind 'chars'; did you mean 'char'"):
        load_tokenizer(tmp_path)


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        trained("char").save(tmp_path / "file")


@pytest.mark.parametrize("name", NAMES)
def test_ids_outside_the_vocabulary(name: str) -> None:
    tokenizer = trained(name)
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(DataError, match=f"token {wrong} is outside the vocabulary of {tokenizer.vocab_size}"):
            tokenizer.decode([0, wrong])
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_half_a_surrogate_pair(name: str) -> None:
    tokenizer = trained(name)
    with pytest.raises(DataError, match=r"(position|character) 1"):
        tokenizer.encode("a\ud83db")
    assert tokenizer.decode(tokenizer.encode("a\ud83db", unknown="skip")) == "ab"


def test_unknown_tokenizer() -> None:
    with pytest.raises(DataError, match="no tokenizer is called 'bpee'; did you mean 'bpe'"):
        train_tokenizer("bpee", ["x"])
