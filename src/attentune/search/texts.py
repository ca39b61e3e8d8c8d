"""Parts of a text: what the search is judged by, and what each fold of the finals trains on and holds out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attentune.data.corpus import Corpus, Tokens


def shortened(corpus: Corpus, tokens: int) -> Corpus:
    """`corpus` with at most the first `tokens` tokens of its validation text."""
    if len(corpus.validation) <= tokens:
        return corpus
    return replace(corpus, validation=piece(corpus, corpus.validation.ids[:tokens], corpus.validation.starts))


def piece(corpus: Corpus, ids: np.ndarray, starts: np.ndarray) -> Tokens:
    """Token ids as a text of their own; documents begin at its beginning and at those of `starts` inside it."""
    tokenizer = corpus.tokenizer
    return Tokens(
        ids=ids,
        starts=np.unique([0, *starts[(starts > 0) & (starts < len(ids))]]).astype(np.int64),
        characters=int(tokenizer.character_lengths[ids].sum(dtype=np.int64)),
        bytes=int(tokenizer.byte_lengths[ids].sum(dtype=np.int64)),
    )


def final_corpus(corpus: Corpus, folds: int, fold: int) -> Corpus:
    """With `folds`, part number `fold` of all the text is held out and the rest is trained on; else `corpus` itself."""
    if not folds:
        return corpus
    ids = np.concatenate([corpus.train.ids, corpus.validation.ids])
    starts = np.concatenate([corpus.train.starts, corpus.validation.starts + len(corpus.train)])
    edges = np.linspace(0, len(ids), folds + 1).astype(int)
    low, high = int(edges[fold]), int(edges[fold + 1])
    # What follows the gap is a document of its own: it does not continue what stands before.
    around = np.concatenate([starts[starts < low], [low], starts[starts > high] - (high - low)])
    return replace(
        corpus,
        train=piece(corpus, np.concatenate([ids[:low], ids[high:]]), around),
        validation=piece(corpus, ids[low:high], starts - low),
        fingerprint=f"{corpus.fingerprint}, fold {fold} of {folds}",
    )
