"""Whole sentences left out of a text, and written anew: what encoder-decoders are pre-trained on.

PEGASUS (Zhang et al., 2020, arXiv:1912.08777): the sentences that tell most of the rest are left out, each for itself
(their Ind-Orig), so that writing them is like writing a summary.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.records import Record
from attentune.data.subwords import SPECIAL
from attentune.errors import DataError
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._language_scores import NOT_COUNTED, Tally, totalled
from attentune.tasks._sentences import overlap, sentences_of, words_of
from attentune.tasks._sequences import FittedSequences, SequenceTask, texts_of
from attentune.tasks._texts import Column, in_batches
from attentune.tasks.task import Array, Example, Fitted, Prediction, Scores

MASK = SPECIAL["mask_token"]
SCORED_TOKENS = 4096  # of the longer side of a batch whose losses are summed: each has a score for every token
Choice = Literal["principal", "random"]


@final
class GapSentences(SequenceTask):
    """Gap-sentence generation: `gap-sentences(text=column)` learns to write sentences that were left out of a text.

    A share of its sentences, at least one, is hidden, each by a `<mask>`: those with the greatest ROUGE-1 F1 with the
    rest of the text, or `choose=random` ones, always the same. A text needs at least two sentences; others are left
    out. Of a text with `<mask>` in it a prediction writes what stands there.
    """

    kind: Literal["gap_sentences"] = "gap_sentences"
    shared_vocabulary: Literal[True] = True
    text: Column = "text"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3  # of the sentences
    choose: Choice = "principal"
    beam: Annotated[int, Field(ge=1)] = 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def read_column(self) -> str:
        return self.text

    def usable(self, record: Record) -> bool:
        """Whether sentences can be left out, and some stay; a text with a `<mask>` is a question, not an example."""
        sentences = self._sentences(record)
        return len(sentences) > 1 and not any(MASK in one for one in sentences)

    def _sentences(self, record: Record) -> tuple[str, ...]:
        parts = texts_of(record, self.text)
        return tuple(one.strip() for one in parts if one.strip()) if len(parts) > 1 else _split(" ".join(parts))

    def hidden(self, record: Record) -> tuple[int, ...]:
        """The numbers of the sentences that are left out, from 0."""
        return chosen_sentences(self._sentences(record), self.share, self.choose)

    def references(self, record: Record) -> list[str]:
        """What was left out, as one text. Raises DataError where a text is too short for it."""
        if not self.usable(record):
            raise DataError(
                f"{record.where}: column {self.text!r} holds fewer than two sentences, or a {MASK}; leave such rows out"
            )
        sentences = self._sentences(record)
        return [" ".join(sentences[number] for number in self.hidden(record))]

    def source_parts(self, record: Record) -> list[str]:
        """The rest of the text, or around its `<mask>`, where it has one."""
        text = " ".join(texts_of(record, self.text))
        if not self.usable(record):
            return text.split(MASK)
        parts, hidden = [""], set(self.hidden(record))
        for number, sentence in enumerate(self._sentences(record)):
            if number in hidden:
                parts.append("")
            else:
                parts[-1] = f"{parts[-1]} {sentence}".strip()
        return parts

    def measure(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        """ROUGE-1 F1 from 0 to 100 of what was written."""
        each = [overlap(words_of(text), words_of(held[0])) for text, held in zip(texts, references, strict=True)]
        signatures = {"rouge_1": "F1 of lower-cased words"}
        return Scores({"rouge_1": 100 * fmean(each)}, "rouge_1", signatures=signatures, best=100)

    def guesses(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, list[str]]:
        del train  # the beginning of a text needs no learning
        return {"first sentence of the rest": [sentences_of(self.source_text(one))[0] for one in records]}

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedGaps:  # type: ignore[override]
        usable = [one for one in records if self.usable(one)]
        if not usable:
            where = records[0].where.partition(",")[0] if records else "the training data"
            raise DataError(f"{where}: no text in the column {self.text!r} has two sentences")
        return FittedGaps(super().fit(usable, data, context=context))

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedGaps:  # type: ignore[override]
        return FittedGaps(super().load(options, folder))


@lru_cache(maxsize=4096)
def _split(text: str) -> tuple[str, ...]:
    return tuple(sentences_of(text))


@lru_cache(maxsize=65536)
def chosen_sentences(sentences: tuple[str, ...], share: float, choose: Choice) -> tuple[int, ...]:
    """The numbers of the sentences to leave out, in their order: at least one, and never all."""
    count = min(max(1, round(share * len(sentences))), len(sentences) - 1)
    if choose == "random":
        seed = zlib.crc32(" ".join(sentences).encode("utf-8", "replace"))
        return tuple(sorted(np.random.default_rng(seed).permutation(len(sentences))[:count].tolist()))
    each = [words_of(sentence) for sentence in sentences]
    whole: Counter[str] = sum(each, Counter())
    told = [overlap(own, whole - own) for own in each]
    best = sorted(range(len(sentences)), key=lambda number: (-told[number], number))[:count]
    return tuple(sorted(best))


def _longer_side(example: Example) -> Array:
    source = example.source
    return example.targets if source is None or len(source) < len(example.targets) else source


@final
class FittedGaps(Fitted):
    """`GapSentences` with its tokenizer: what `FittedSequences` makes of it, and the loss of what was left out."""

    task: GapSentences

    def __init__(self, inner: FittedSequences) -> None:
        assert isinstance(inner.task, GapSentences)
        self.inner, self.task = inner, inner.task

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return self.inner.complete(spec)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> EncoderDecoder:
        return self.inner.build(spec, seed=seed)

    def example(self, record: Record) -> Example:
        return self.inner.example(record)

    def examples(self, record: Record) -> list[Example]:
        return [self.inner.example(record)] if self.task.usable(record) else []

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        return self.inner.batch(examples, device, scored=scored)

    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        """What the model writes, and the sum of the losses of what stood there, in `nats`.

        That is None of texts with `<mask>` or too short for it, of which it is not known.
        """
        written = self.inner.predict(model, records)
        known = [n for n, one in enumerate(records) if self.task.usable(one)]
        tallies = self._tallies(model, [self.inner.example(records[number]) for number in known])
        counted = {number: tally.as_fields() for number, tally in zip(known, tallies, strict=True)}
        return [
            Prediction(one.value, {**one.fields, **counted.get(number, NOT_COUNTED)})
            for number, one in enumerate(written)
        ]

    @torch.inference_mode()
    def _tallies(self, model: nn.Module, examples: Sequence[Example]) -> list[Tally]:
        model.eval()
        device, pieces = next(model.parameters()).device, self.inner.target_tokenizer.pieces
        found = [Tally()] * len(examples)
        for chosen in in_batches([_longer_side(one) for one in examples], SCORED_TOKENS):
            part = self.inner.batch([examples[place] for place in chosen], device)
            logits = model(part.ids, part.layout, **part.inputs).logits.float()
            each = F.cross_entropy(logits.transpose(1, 2), part.targets, reduction="none", ignore_index=IGNORED)
            right = (logits.argmax(-1) == part.targets).sum(1)
            for row, place in enumerate(chosen):
                targets = examples[place].targets
                found[place] = Tally(
                    nats=float(each[row].sum()),
                    tokens=len(targets),
                    right=int(right[row]),
                    characters=int(pieces.character_lengths[targets].sum()),
                    bytes=int(pieces.byte_lengths[targets].sum()),
                )
        return found

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        pairs = [(a, r) for a, r in zip(predictions, records, strict=True) if a.fields.get("nats") is not None]
        how = "mean over the tokens of the sentences left out and their ends, each given those before it"
        told = totalled([answer for answer, _ in pairs], "accuracy", how)
        written = self.task.measure([str(a.value) for a, _ in pairs], [self.task.references(r) for _, r in pairs])
        signatures = {**written.signatures, **told.signatures}
        return Scores({**written.values, **told.values}, written.main, signatures=signatures, best=written.best)

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        return self.inner.baseline(train, [one for one in records if self.task.usable(one)])

    def save(self, folder: Path) -> None:
        self.inner.save(folder)
