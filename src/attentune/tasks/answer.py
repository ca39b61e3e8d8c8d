"""Questions about a text, with answers that stand in it, or that it does not answer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from attentune.data.batches import MicroBatch
from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.data.subwords import SubwordTokenizer
from attentune.errors import CheckpointError, DataError
from attentune.models.build import seeded
from attentune.models.storage import atomic_write
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._answer_rows import Window, windows_of
from attentune.tasks._answer_scores import best_of, best_threshold, f1, score_answers
from attentune.tasks._answer_spans import Span, is_marked_impossible, spans_of
from attentune.tasks._answer_words import FIRST_OF_CONTEXT, OUTSIDE, Frequencies, marks_of
from attentune.tasks._reader import Reader, best_spans
from attentune.tasks._texts import Column, in_batches, padded, text_of, trained_tokenizer
from attentune.tasks._word_overlap import sliding_window
from attentune.tasks.task import Array, Example, Fitted, Prediction, Scores, Task

Share = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1)]
HELD = "reading.json"


@final
class Answer(Task):
    """`question` about `context` to `answers`, texts that stand in the context (SQuAD v1.1 and v2).

    A cell of `answers` is a list of {"text", "start"}, the number of the answer's first character, or as in tables of
    SQuAD {"text": [...], "answer_start": [...]}. None at all means that the context does not answer; where a record has
    a column `impossible`, it must say so too. A context that is longer than the model's is read in windows that overlap
    (a stride), and the best answer of all windows counts.
    """

    kind: Literal["answer"] = "answer"
    stack: ClassVar[Literal["encoder"]] = "encoder"
    question: Column = "question"
    context: Column = "context"
    answers: Column = "answers"
    article: Column | None = "title"  # its questions stay together where a validation part is drawn; else a text's
    longest_question: Size = 40  # tokens; the end of a longer one is not read
    longest_answer: Size = 30  # tokens
    overlap: Size = 64  # tokens that neighbouring windows of a long context have in common
    dropout: Share = 0.2  # before the output layer
    word_dropout: Share = 0.1  # share of tokens that training reads as unknown ones

    @model_validator(mode="after")
    def _columns_differ(self) -> Answer:
        if len({self.question, self.context, self.answers}) < 3:
            raise ValueError(f"question, context and answers are different columns, got {self.columns}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.asked, self.answers)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.question, self.context)

    @property
    def drawn_whole(self) -> tuple[str, ...]:
        if self.article is None:
            return ()
        return (self.article,) if "article" in self.model_fields_set else (self.article, self.context)

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedAnswer:
        least = self.longest_question + 2 + self.overlap
        if context <= least:
            raise DataError(
                f"context={context} leaves no room for a text: a window holds a question (longest_question="
                f"{self.longest_question}), 2 tokens around it, and more than overlap={self.overlap}; it must be more "
                f"than {least}: say for example --context {2 * (least + 1)}"
            )
        answered = [bool(self.spans_of(record)) for record in records]
        if not any(answered):
            where = records[0].where.partition(",")[0] if records else "the training data"
            raise DataError(f"{where}: no question has an answer in column {self.answers!r}: nothing can be learned")
        contexts = [text_of(record, self.context) for record in records]
        questions = [text_of(record, self.question) for record in records]
        tokenizer = trained_tokenizer((*dict.fromkeys(contexts), *questions), data)
        fitted = FittedAnswer(self, tokenizer, Frequencies.of(contexts), context, unanswerable=not all(answered))
        self._warn(fitted, records)
        return fitted

    def _warn(self, fitted: FittedAnswer, records: Sequence[Record]) -> None:
        long = lost = 0
        for record in records:
            windows, spans = list(fitted.windows(record)), self.spans_of(record)
            long += len(windows) > 1
            lost += bool(spans) and bool(windows) and not any(window.target(spans[0]) for window in windows)
        if long:
            warnings.warn(
                f"{long} of {len(records)} training contexts are longer than the model's and are read in windows",
                DataWarning,
                stacklevel=3,
            )
        if lost:
            warnings.warn(
                f"{lost} of {len(records)} training answers stand in no window as a whole and count as no answer; a "
                "greater overlap keeps more",
                DataWarning,
                stacklevel=3,
            )

    def spans_of(self, record: Record) -> list[Span]:
        """The right answers of a record; none where there is none. Raises DataError where one does not stand there."""
        spans = spans_of(record, self.answers, text_of(record, self.context))
        if not spans and not is_marked_impossible(record):
            raise DataError(f"{record.where}: column {self.answers!r} holds no answer, and `impossible` is not true")
        return spans

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedAnswer:
        try:
            held = json.loads((folder / HELD).read_text(encoding="utf-8"))
            counts = {str(word): int(count) for word, count in held["words"].items()}
            frequencies, context = Frequencies(int(held["texts"]), counts), int(held["context"])
            unanswerable = bool(held["unanswerable"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / HELD} is missing or damaged: {error}") from None
        tokenizer = SubwordTokenizer.load(folder)
        return FittedAnswer(cls(**options), tokenizer, frequencies, context, unanswerable=unanswerable)


@dataclass(frozen=True)
class Found:
    """The best answer in a context: its characters, its logits' lead over no answer, and its probability."""

    start: int
    end: int
    margin: float
    probability: float


@final
class FittedAnswer(Fitted):
    """`Answer` with its tokenizer and the frequencies of words; `context` is the most tokens of a window."""

    task: Answer

    def __init__(
        self,
        task: Answer,
        tokenizer: SubwordTokenizer,
        frequencies: Frequencies,
        context: int,
        *,
        unanswerable: bool,
    ) -> None:
        self.task, self.tokenizer, self.frequencies, self.context = task, tokenizer, frequencies, context
        self.unanswerable = unanswerable  # whether training has questions that are not answered
        self._latest: tuple[str, tuple[Array, Array]] = ("", (np.zeros(0, np.int32), np.zeros((0, 2), np.int64)))

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return spec.replace(vocab_size=self.tokenizer.vocab_size, context=self.context)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        task = self.task
        return seeded(
            lambda: Reader(
                spec,
                dropout=task.dropout,
                hidden_share=task.word_dropout,
                unknown=self.tokenizer.unknown,
                special=self.tokenizer.special,
            ),
            seed,
        )

    def windows(self, record: Record) -> Iterator[Window]:
        """The rows that a record is read in; none where the question or the context is empty."""
        task, context = self.task, text_of(record, self.task.context)
        question = text_of(record, task.question)
        if not question.strip():
            return iter(())
        ids, places = self._encoded(context)
        return windows_of(
            ids,
            places,
            marks_of(context, question, places, self.frequencies),
            self.tokenizer.encode(question)[: task.longest_question],
            tokenizer=self.tokenizer,
            length=self.context,
            overlap=task.overlap,
        )

    def _encoded(self, context: str) -> tuple[Array, Array]:
        """Tokens and places; many questions in a row have the same context."""
        text, encoded = self._latest
        if text != context:
            encoded = self.tokenizer.encode_with_places([context])[0]
            self._latest = context, encoded
        return encoded

    def example(self, record: Record) -> Example:
        """That of the window that holds the answer, of several the first."""
        every = self.examples(record)
        return next((one for one in every if one.targets.any()), every[0])

    def examples(self, record: Record) -> list[Example]:
        """An example of each window; where it does not hold the first of the right answers, nothing is right."""
        for column in self.task.asked:
            if not text_of(record, column).strip():
                raise DataError(f"{record.where}: column {column!r} holds no text; leave such records out")
        spans, found = self.task.spans_of(record), []
        for window in self.windows(record):
            target = window.target(spans[0]) if spans else None
            found.append(Example(window.ids, np.array(target or (0, 0), dtype=np.int64), marks=window.marks))
        if not found:
            raise DataError(f"{record.where}: column {self.task.context!r} holds no token; leave such records out")
        return found

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        ids, layout = padded([one.ids for one in examples], self.tokenizer.pad, device)
        marks, _ = padded([one.marks for one in examples if one.marks is not None], OUTSIDE, device)
        targets = torch.from_numpy(np.stack([one.targets for one in examples])).to(device)
        return MicroBatch(ids, targets, layout, targets.numel() / (scored or targets.numel()), inputs={"marks": marks})

    @torch.inference_mode()
    def find(self, model: nn.Module, records: Sequence[Record]) -> list[Found | None]:
        """The best answer of all windows of each record, of which its lead over no answer decides; None without any."""
        model.eval()
        device = next(model.parameters()).device
        windows = [(row, window) for row, record in enumerate(records) for window in self.windows(record)]
        best: list[Found | None] = [None] * len(records)
        for chosen in in_batches([window.ids for _, window in windows]):
            ids, layout = padded([windows[place][1].ids for place in chosen], self.tokenizer.pad, device)
            marks, _ = padded([windows[place][1].marks for place in chosen], OUTSIDE, device)
            logits = model(ids, layout, marks=marks).logits
            spans = best_spans(logits, marks >= FIRST_OF_CONTEXT, longest=self.task.longest_answer)
            for place, first, last, margin, likely in zip(chosen, *(one.tolist() for one in spans), strict=True):
                row, window = windows[place]
                held = best[row]
                if held is None or margin > held.margin:
                    start, end = int(window.places[first, 0]), int(window.places[last, 1])
                    best[row] = Found(start, end, margin, float(np.exp(likely)))
        return best

    def settle(self, model: nn.Module, records: Sequence[Record]) -> None:
        """Sets the threshold of no answer to the one with the greatest F1 on `records`."""
        assert isinstance(model, Reader)
        if not self.unanswerable:
            return
        margins, answered, silent = [], [], []
        for record, found in zip(records, self.find(model, records), strict=True):
            if found is not None:
                right = [span.text for span in self.task.spans_of(record)]
                margins.append(found.margin)
                answered.append(best_of(f1, text_of(record, self.task.context)[found.start : found.end], right))
                silent.append(best_of(f1, "", right))
        if margins:
            with torch.no_grad():
                model.threshold.fill_(best_threshold(np.array(margins), np.array(answered), np.array(silent)))

    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        """Answers with their probability and place; an empty one, without a place, where there is none.

        Where some questions have no answer, also the lead over saying so: None where there is nothing to read.
        """
        assert isinstance(model, Reader)
        return [
            self._prediction(record, found, float(model.threshold))
            for record, found in zip(records, self.find(model, records), strict=True)
        ]

    def _prediction(self, record: Record, found: Found | None, threshold: float) -> Prediction:
        if found is None:
            nothing: dict[str, Any] = {"score": 0.0, "start": None, "end": None}
            return Prediction("", {**nothing, "margin": None} if self.unanswerable else nothing)
        fields: dict[str, Any] = {"score": round(found.probability, 6), "start": found.start, "end": found.end}
        text = text_of(record, self.task.context)[found.start : found.end]
        if self.unanswerable:
            fields["margin"] = round(found.margin - threshold, 6)
            if found.margin <= threshold:
                return Prediction("", {**fields, "start": None, "end": None})
        return Prediction(text, fields)

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        right = [[span.text for span in self.task.spans_of(record)] for record in records]
        return score_answers(predictions, right, [text_of(one, self.task.question) for one in records], records)

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        del train  # the overlap of words needs no more than their frequencies
        guesses = []
        for record in records:
            context, question = text_of(record, self.task.context), text_of(record, self.task.question)
            start, end = sliding_window(context, question, self.frequencies)
            guesses.append(Prediction(context[start:end]))
        found = {"sliding window of words": self.score(guesses, records)}
        if self.unanswerable:
            found["never an answer"] = self.score([Prediction("")] * len(records), records)
        return found

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        held = {
            "context": self.context,
            "unanswerable": self.unanswerable,
            "texts": self.frequencies.texts,
            "words": dict(self.frequencies.counts),
        }
        atomic_write(folder / HELD, json.dumps(held, ensure_ascii=False) + "\n")
