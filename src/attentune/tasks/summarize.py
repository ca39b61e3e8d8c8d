"""Long texts to short ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import Literal, final

from attentune.data.records import Record
from attentune.tasks._extra import needed
from attentune.tasks._pairs import PairTask
from attentune.tasks._sentences import UnicodeWords, mostly_of_other_letters, sentences_of
from attentune.tasks._sequences import texts_of
from attentune.tasks.task import Scores

KINDS = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}  # as the library calls them, and as we do
LONGEST_UNSTEMMED = 3  # letters, as in the library


class EnglishStems:
    """The stemmed words of the library, each word stemmed once: most of the time of a score is spent there."""

    def __init__(self) -> None:
        stemmer = needed("nltk.stem.porter", "rouge-score", "scoring summaries").PorterStemmer()
        self._split = needed("rouge_score.tokenize", "rouge-score", "scoring summaries").tokenize
        self._stem = cache(stemmer.stem)
        self._known: dict[str, list[str]] = {}  # a text is compared with several references, and these with it

    def tokenize(self, text: str) -> list[str]:
        if text not in self._known:
            words: list[str] = self._split(text, None)
            self._known[text] = [self._stem(word) if len(word) > LONGEST_UNSTEMMED else word for word in words]
        return self._known[text]


@final
class Summarize(PairTask):
    """`summarize(source=article, target=summary)`.

    Scores are ROUGE-1, -2 and -L (Lin, 2004), F1 from 0 to 100, of several references the best one. `english` words are
    stemmed, as papers on English texts do; `unicode` words are of any script, and each Chinese character is one.
    """

    kind: Literal["summarize"] = "summarize"
    words: Literal["english", "unicode"] = "english"

    def measure(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        rouge = needed("rouge_score.rouge_scorer", "rouge-score", "scoring summaries")
        tokenizer = UnicodeWords() if self.words == "unicode" else EnglishStems()
        scorer = rouge.RougeScorer(list(KINDS), tokenizer=tokenizer)
        scored = [scorer.score_multi(held, text) for text, held in zip(texts, references, strict=True)]
        values = {name: 100 * fmean(float(one[kind].fmeasure) for one in scored) for kind, name in KINDS.items()}
        how = (
            f"rouge_score, F1, {self.words} words{', stemmed' * (self.words == 'english')}, best of several references"
        )
        return Scores(values, "rouge_l", signatures=dict.fromkeys(values, how), best=100)

    def misread(self, texts: Sequence[str]) -> str | None:
        if self.words == "english" and mostly_of_other_letters(texts):
            return "most texts are of other letters than a to z, which ROUGE of english words leaves out: words=unicode"
        return None

    def guesses(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, list[str]]:
        del train  # the beginning of a text needs no learning
        return {f"lead-{count}": [self.lead(record, count) for record in records] for count in (1, 3)}

    def lead(self, record: Record, count: int) -> str:
        """The first sentences of the source: the first of the list, or up to that many ends of sentences."""
        parts = texts_of(record, self.source)
        if len(parts) == 1:
            parts = sentences_of(parts[0])
        return " ".join(parts[:count])
