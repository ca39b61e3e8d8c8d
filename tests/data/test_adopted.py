"""Tokenizers that come with a model: BERT's words in pieces, GPT-2's bytes, SentencePiece, and our own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attentune.data.adopted import adopted_tokenizer, language_tokenizer
from attentune.data.char import CharTokenizer
from attentune.data.subwords import SPECIAL, SubwordTokenizer
from attentune.data.tokenizers import load_tokenizer
from attentune.errors import CheckpointError
from data.foreign import TEXTS, WORDS, bert, gpt2, marian


def same(one: SubwordTokenizer, other: SubwordTokenizer) -> bool:
    names = ("pad", "unknown", "begin", "end", "mask", "separator", "classifier", "vocab_size", "framed", "special")
    ids = [one.encode(text).tolist() for text in TEXTS]
    return ids == [other.encode(text).tolist() for text in TEXTS] and all(
        getattr(one, name) == getattr(other, name) for name in names
    )


def test_words_in_pieces_with_their_own_special_tokens(tmp_path: Path) -> None:
    tokenizer = adopted_tokenizer(bert(tmp_path))
    ids = tokenizer.encode("The cat's PLAYING.")
    assert [WORDS[number] for number in ids[:2]] == ["the", "cat"]
    assert [WORDS[number] for number in ids[-3:]] == ["play", "##ing", "."]
    assert (tokenizer.pad, tokenizer.unknown, tokenizer.mask) == (0, 2, 5)
    assert (tokenizer.classifier, tokenizer.separator, tokenizer.begin, tokenizer.end) == (3, 4, 3, 4)
    assert tokenizer.framed
    assert tokenizer.vocab_size == 20  # as many as the model has vectors
    assert not np.isin(tokenizer.encode("[MASK]"), tokenizer.special[2:]).any()  # a text is no command
    assert tokenizer.pieces.words(ids[-3:]).tolist() == [0, 0, 1]
    assert tokenizer.pieces.byte_lengths[ids[-2]] == 3
    tokenizer.save(tmp_path / "kept")
    assert same(tokenizer, SubwordTokenizer.load(tmp_path / "kept"))
    assert same(tokenizer, adopted_tokenizer(tmp_path / "kept"))


def test_bytes_of_a_language_model_for_a_task_and_for_language(tmp_path: Path) -> None:
    place = gpt2(tmp_path)
    task, language = adopted_tokenizer(place), language_tokenizer(place)
    assert task.decode(task.encode("ein Hund läuft 🙂")) == language.decode(language.encode("ein Hund läuft 🙂"))
    assert task.encode(TEXTS[0]).tolist() == language.encode(TEXTS[0]).tolist()
    assert language.end_of_text == task.begin == task.end == 0
    assert not task.framed
    added = {task.pad, task.unknown, task.mask, task.separator, task.classifier}
    assert added == set(range(language.vocab_size, language.vocab_size + 5))
    assert task.vocab_size == language.vocab_size + 5
    text = "ein Hund läuft 🙂"
    ids = language.encode(text)
    assert int(language.byte_lengths[ids].sum()) == len(text.encode())
    assert int(language.character_lengths[ids].sum()) == len(text)
    language.save(tmp_path / "kept")
    again = load_tokenizer(tmp_path / "kept")
    assert again.encode(text).tolist() == ids.tolist()
    assert (again.vocab_size, again.end_of_text) == (language.vocab_size, 0)


def test_characters_of_a_language_model_and_those_it_does_not_know(tmp_path: Path) -> None:
    ours = CharTokenizer.train(TEXTS)
    ours.save(tmp_path)
    tokenizer = adopted_tokenizer(tmp_path)
    ids = tokenizer.encode("the cat€")
    assert ids[:-1].tolist() == ours.encode("the cat").tolist()
    assert ids[-1] == tokenizer.unknown
    assert min(tokenizer.pad, tokenizer.unknown, tokenizer.mask) >= ours.vocab_size
    tokenizer.save(tmp_path / "kept")
    assert same(tokenizer, SubwordTokenizer.load(tmp_path / "kept"))


def test_our_own_is_as_it_was(tmp_path: Path) -> None:
    ours = SubwordTokenizer.train(TEXTS, 300, pieces="word")
    ours.save(tmp_path)
    assert same(ours, adopted_tokenizer(tmp_path))
    assert ours.special == tuple(range(len(SPECIAL)))


def test_marian_has_two_tokenizers_and_one_vocabulary(tmp_path: Path) -> None:
    place = marian(tmp_path)
    source, target = (adopted_tokenizer(place, side) for side in ("source", "target"))  # type: ignore[arg-type]
    assert source.encode("the  cats ").tolist() == [3, 5, 4]
    assert target.encode("die Katzen").tolist() == [2, 6]
    assert source.decode([3, 5, 4]) == "the cats"
    assert (target.end, target.unknown, target.pad, target.begin) == (0, 1, 7, 7)
    assert source.encode("dog").tolist().count(1) >= 1
    with pytest.raises(CheckpointError, match="one tokenizer for sources and one for targets: say shared_vocabulary"):
        adopted_tokenizer(place, "both")


def test_sentence_pieces_as_their_own_library_reads_them(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    texts = [f"{text} {number} über-Größe ﬁne" for number, text in enumerate(TEXTS * 20)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    library.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"), model_prefix=str(tmp_path / "source"), vocab_size=50, minloglevel=2
    )
    (tmp_path / "source.model").rename(tmp_path / "source.spm")
    reader = library.SentencePieceProcessor(model_file=str(tmp_path / "source.spm"))
    names = {reader.id_to_piece(place): place for place in range(reader.get_piece_size())}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    tokenizer = adopted_tokenizer(tmp_path)
    for text in (*texts[:5], "  the   mat ", "ﬁne Größe", "unseen Ж words", ""):
        assert tokenizer.encode(text).tolist() == reader.encode(text)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("source.spm", b"\xff\xff", "is no file of SentencePiece"),
        ("vocab.json", b'{"a": 1}', "its numbers are not 0, 1, 2"),
        ("vocab.json", b'{"a": 0}', "has no number for '<unk>'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    marian(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        adopted_tokenizer(tmp_path)


def test_what_is_no_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no tokenizer: there is no tokenizer"):
        adopted_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"the tokenizer in {tmp_path} is damaged"):
        adopted_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no unigram model"):
        adopted_tokenizer(marian(tmp_path, kind=2))
