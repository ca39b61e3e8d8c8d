"""Figures of texts beside their references, and simple ways to guess them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from attentune.tasks._extra import needed
from attentune.tasks._sentences import mostly_without_spaces
from attentune.tasks._tfidf import tf_idf
from attentune.tasks.task import Scores

Tokenize = Literal["13a", "intl", "zh", "char", "none"]
ROWS = 256  # of the table of similarities at once
_PIECES = re.compile(r"\w+(?=n't\b)|n't\b|'\w+|\w+|[^\w\s]")


def score_translations(
    texts: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: Tokenize, lowercase: bool
) -> Scores:
    """sacreBLEU (arXiv:1804.08771) and chrF (Popović, 2015), both from 0 to 100, with their signatures.

    `tokenised_bleu` is BLEU on lower-cased words, marks, and the parts of English contractions, each apart, without
    smoothing: what papers print whose texts were tokenised beforehand, and nothing for scripts without spaces.
    `length_ratio` is that of words to references.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metrics = needed("sacrebleu.metrics", "sacrebleu", "scoring texts")
    most = max(map(len, references))
    streams = [[held[place] if place < len(held) else None for held in references] for place in range(most)]
    bleu = metrics.BLEU(tokenize=tokenize, lowercase=lowercase)
    chrf = metrics.CHRF(lowercase=lowercase)
    plain = metrics.BLEU(tokenize="none", smooth_method="none", force=True)
    scored = bleu.corpus_score(list(texts), streams)
    apart = [[None if one is None else split_words(one) for one in stream] for stream in streams]
    values = {
        "bleu": float(scored.score),
        "chrf": float(chrf.corpus_score(list(texts), streams).score),
        "length_ratio": float(scored.sys_len / max(scored.ref_len, 1)),
    }
    signatures = {
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
    }
    if tokenize not in ("zh", "char"):
        values["tokenised_bleu"] = float(plain.corpus_score([split_words(text) for text in texts], apart).score)
        signatures["tokenised_bleu"] = f"{plain.get_signature()} on lower-cased words and marks apart"
    return Scores(values, "bleu", text=str(scored), signatures=signatures, best=100)


def misread_translations(texts: Sequence[str], tokenize: Tokenize) -> str | None:
    """Why BLEU would take whole sentences of `texts` for words, and what mends it; None where it does not."""
    if tokenize != "13a" or not mostly_without_spaces(texts):
        return None
    return (
        "most texts are Chinese or Japanese, whose words tokenize=13a does not part: say tokenize=zh, or "
        "tokenize=char of Japanese"
    )


def split_words(text: str) -> str:
    """Lower-cased words and marks with a space between: `Don't sit.` is `do n't sit .`"""
    return " ".join(_PIECES.findall(text.lower()))


def nearest(known: Sequence[str], answers: Sequence[str], asked: Sequence[str]) -> dict[str, list[str]]:
    """A baseline: for each of `asked` the answer of the known text that shares most with it, pieces of 2 to 4 letters.

    Nothing where the known texts have no letters.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    table = tf_idf(known, analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)
    if table is None:
        return {}
    columns, rows = table.rows.T.tocsr(), table.vectors.transform(asked)
    found: list[str] = []
    for start in range(0, len(asked), ROWS):
        best = (rows[start : start + ROWS] @ columns).toarray().argmax(1)
        found += [answers[place] for place in best]
    return {"nearest training source": found}
