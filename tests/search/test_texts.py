"""Parts of a text keep their documents, and folds hold out each token exactly once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attentune.data.corpus import Corpus, load_corpus
from attentune.search.protocol import protocol
from attentune.search.space import StudySpec
from attentune.search.text_subject import TextSubject
from attentune.search.texts import final_corpus, shortened
from attentune.spec.run import DataSpec


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(f"{number}" * (40 + number))
    return load_corpus(DataSpec(path=str(tmp_path), validation=0.4), context=8)


def documents(ids: np.ndarray, starts: np.ndarray) -> list[int]:
    return [len(part) for part in np.split(ids, starts[1:])]


def test_a_shortened_text_keeps_its_documents(corpus: Corpus) -> None:
    whole = documents(corpus.validation.ids, corpus.validation.starts)
    assert len(whole) > 1
    cut = shortened(corpus, whole[0] + 10).validation
    assert documents(cut.ids, cut.starts) == [whole[0], 10]
    assert cut.characters == whole[0] - 1 + 10  # an end of text is no character
    assert shortened(corpus, 10**6) is corpus


def test_folds_hold_out_every_token_once_and_keep_documents(corpus: Corpus) -> None:
    whole = np.concatenate([corpus.train.ids, corpus.validation.ids])
    starts = {*corpus.train.starts.tolist(), *(corpus.validation.starts + len(corpus.train)).tolist()}
    folds = [final_corpus(corpus, 3, fold) for fold in range(3)]
    assert np.array_equal(np.concatenate([fold.validation.ids for fold in folds]), whole)
    low = 0
    for fold in folds:
        high = low + len(fold.validation)
        assert np.array_equal(fold.train.ids, np.concatenate([whole[:low], whole[high:]]))
        inside = {place - low for place in starts if low < place < high}
        assert set(fold.validation.starts.tolist()) == {0} | inside
        gap = {low} if low > 0 and high < len(whole) else set()
        around = {place for place in starts if place < low} | {p - (high - low) for p in starts if high < p}
        assert set(fold.train.starts.tolist()) == {0} | gap | around
        low = high
    assert len({fold.fingerprint for fold in folds}) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "on all of the text's validation part with one seed; the finals are measured on the whole of that part"),
        ({"search_validation_tokens": 64}, "on the first 64 tokens of the text's validation part"),
        ({"folds": 3}, "the folds contain that part, and text that the search was trained on"),
    ],
)
def test_the_protocol_says_what_the_search_has_seen(corpus: Corpus, changes: dict[str, object], says: str) -> None:
    spec = StudySpec(**changes)
    told = " ".join(protocol(spec, TextSubject(corpus), spec.search_validation_tokens, candidate="tuned"))
    assert says in told
    assert "their text is not: gains may be slightly too good" in told
