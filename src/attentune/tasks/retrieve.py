"""Questions to the text that answers them, among all that there are; or how alike two texts are."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import nn

from attentune.data.batches import MicroBatch
from attentune.data.records import Record
from attentune.data.subwords import SubwordTokenizer
from attentune.errors import CheckpointError, DataError
from attentune.models.build import seeded
from attentune.models.storage import atomic_write
from attentune.shapes import Tensor
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._matcher import Matcher
from attentune.tasks._ranking import (
    QUESTIONS,
    best_cut,
    bm25,
    cosine_rows,
    ranked,
    score_rankings,
    score_similarities,
    word_vectors,
)
from attentune.tasks._texts import Column, cell, in_batches, padded, text_of, trained_tokenizer, warn_of_cuts
from attentune.tasks.task import Array, Example, Fitted, Prediction, Scores, Task

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
COLLECTION = "collection.json"
RARE = 1e-3  # the a of a / (a + p)


@final
class Retrieve(Task):
    """`question` to the text in `answer`, among those of all records; or with `label`, how alike the two texts are.

    One encoder reads both; it learns to tell each answer of a batch from the others (InfoNCE, arXiv:1807.03748, in both
    directions). The texts to find, those of training, validation and test records, and their vectors are kept with the
    model. Labels are 0 and 1, or grades from 0 to `highest`: then the pair is what a prediction is asked of.
    """

    kind: Literal["retrieve"] = "retrieve"
    stack: ClassVar[Literal["encoder"]] = "encoder"
    question: Column = "question"
    answer: Column = "answer"
    label: Column | None = None
    highest: Positive = 1.0  # label: of two texts that say the same
    top: Annotated[int, Field(ge=1)] = 10  # texts in a prediction
    temperature: Positive = 0.05  # by which cosines are divided in training
    weighting: Literal["even", "rare"] = "rare"  # rare: tokens count a / (a + their share of the training texts)
    dropout: Share = 0.1  # of a text's vector
    word_dropout: Share = 0.1  # share of tokens that training reads as unknown ones

    @model_validator(mode="after")
    def _options_fit(self) -> Retrieve:
        if len({self.question, self.answer, self.label}) < 3:
            raise ValueError(f"question, answer and label are different columns, got {self.columns}")
        if self.label is None and self.highest != 1.0:
            raise ValueError("highest is for labels: name their column")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        both = (self.question, self.answer)
        return both if self.label is None else (*both, self.label)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.question,) if self.label is None else (self.question, self.answer)

    @property
    def drawn_whole(self) -> tuple[str, ...]:
        return (self.question,)  # which may stand in several records

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedRetrieve:
        texts = [text_of(record, column) for record in records for column in (self.question, self.answer)]
        tokenizer = trained_tokenizer(texts, data)
        rows = tokenizer.encode_batch(texts)
        counts = np.bincount(np.concatenate(rows), minlength=tokenizer.vocab_size).astype(np.float32)
        weights = np.ones_like(counts) if self.weighting == "even" else RARE / (RARE + counts / counts.sum())
        graded = self.label is not None and any(self.grade_of(one) not in (0, self.highest) for one in records)
        fitted = FittedRetrieve(self, tokenizer, [], context, graded=graded, weights=weights.astype(np.float32))
        fitted.widen(records)
        if self.label is None and len(fitted.texts) < 2:
            where = records[0].where.partition(",")[0]
            raise DataError(f"{where}: column {self.answer!r} holds one text; at least 2 are needed to tell apart")
        if self.label is not None and len({self.grade_of(one) for one in records}) < 2:
            where = records[0].where.partition(",")[0]
            raise DataError(f"{where}: column {self.label!r} holds the same label everywhere; nothing can be learned")
        warn_of_cuts([len(row) for row in rows], context, "training texts")
        return fitted

    def grade_of(self, record: Record) -> float:
        """The label of a pair. Raises DataError where it is no number from 0 to `highest`."""
        assert self.label is not None
        held = cell(record, self.label)
        try:
            grade = float(held if isinstance(held, str | int | float) else "")
        except ValueError:
            grade = -1.0
        if not 0 <= grade <= self.highest:
            raise DataError(
                f"{record.where}: column {self.label!r} holds {held!r}, not a number from 0 to highest={self.highest:g}"
            )
        return grade

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedRetrieve:
        try:
            held = json.loads((folder / COLLECTION).read_text(encoding="utf-8"))
            texts, context, graded = list(map(str, held["texts"])), int(held["context"]), bool(held["graded"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / COLLECTION} is missing or damaged: {error}") from None
        tokenizer = SubwordTokenizer.load(folder)
        weights = np.ones(tokenizer.vocab_size, dtype=np.float32)  # the model's own are among its tensors
        return FittedRetrieve(cls(**options), tokenizer, texts, context, graded=graded, weights=weights)


@final
class FittedRetrieve(Fitted):
    """`Retrieve` with its tokenizer and the collection; `context` is the most tokens of a text that are read."""

    task: Retrieve

    def __init__(
        self,
        task: Retrieve,
        tokenizer: SubwordTokenizer,
        texts: list[str],
        context: int,
        *,
        graded: bool,
        weights: Float[np.ndarray, " V"],
    ) -> None:
        self.task, self.tokenizer, self.texts, self.context = task, tokenizer, texts, context
        self.graded, self.weights = graded, weights
        self._numbers = {_key(text): number for number, text in enumerate(texts)}

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return spec.replace(vocab_size=self.tokenizer.vocab_size, context=self.context)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        task = self.task
        return seeded(
            lambda: Matcher(
                spec,
                weights=torch.from_numpy(self.weights),
                collection=len(self.texts),
                temperature=task.temperature,
                labelled=task.label is not None,
                dropout=task.dropout,
                hidden_share=task.word_dropout,
                unknown=self.tokenizer.unknown,
                special=self.tokenizer.special,
            ),
            seed,
        )

    def widen(self, records: Sequence[Record]) -> None:
        """Adds the answers of `records` to the collection; those that differ in white space alone are one text."""
        if self.task.label is not None:
            return
        for record in records:
            text = self._text(record, self.task.answer)
            if _key(text) not in self._numbers:
                self._numbers[_key(text)] = len(self.texts)
                self.texts.append(text)

    def _text(self, record: Record, column: str) -> str:
        text = text_of(record, column)
        if not text.strip():
            raise DataError(f"{record.where}: column {column!r} holds no text; leave such rows out")
        return text

    def _rows(self, texts: Sequence[str]) -> list[Array]:
        """Tokens of each text, cut at the context; what holds nothing is one unknown token."""
        nothing = np.array([self.tokenizer.unknown], dtype=np.int32)
        return [row[: self.context] if len(row) else nothing for row in self.tokenizer.encode_batch(list(texts))]

    def example(self, record: Record) -> Example:
        question, answer = self._text(record, self.task.question), self._text(record, self.task.answer)
        ids, source = self._rows([question, answer])
        if self.task.label is not None:
            share = self.task.grade_of(record) / self.task.highest
            return Example(ids, np.array([share], dtype=np.float32), source=source)
        number = self._numbers.get(_key(answer), -1)  # -1: of a record that the collection does not know
        asked = zlib.crc32(_key(question).encode())
        return Example(ids, np.array([number, asked], dtype=np.int64), source=source)

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        ids, layout = padded([one.ids for one in examples], self.tokenizer.pad, device)
        source, source_layout = padded([one.source for one in examples if one.source is not None], 0, device)
        inputs: dict[str, Any] = {"source": source, "source_layout": source_layout}
        held = torch.from_numpy(np.stack([one.targets for one in examples])).to(device)
        share = held.numel() / (scored or held.numel())
        if self.task.label is not None:
            return MicroBatch(ids, held, layout, share, inputs=inputs)
        alike = (held[:, None] == held).any(-1)  # the same answer, or another of the same question
        inputs["same"] = alike.fill_diagonal_(False)
        targets = torch.arange(len(examples), device=device).expand(2, -1).contiguous()
        return MicroBatch(ids, targets, layout, share, inputs=inputs)

    @torch.inference_mode()
    def _vectors(self, model: Matcher, texts: Sequence[str]) -> Float[Tensor, "N E"]:
        """The vectors of texts, in their order."""
        model.eval()
        device, rows = model.index.device, self._rows(texts)
        found = torch.zeros(len(rows), model.spec.width, device=device)
        for chosen in in_batches(rows):
            ids, layout = padded([rows[row] for row in chosen], self.tokenizer.pad, device)
            found[chosen] = model.embed(ids, layout)[0]
        return found

    def settle(self, model: nn.Module, records: Sequence[Record]) -> None:
        """Computes the vectors of the collection anew; `records` have no say in them."""
        del records
        assert isinstance(model, Matcher)
        if self.texts:
            vectors = self._vectors(model, self.texts)
            with torch.no_grad():
                model.index.copy_(vectors)

    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        """The best texts with their cosines; of pairs with labels the grade that the model gives them.

        A record without text is answered with nothing.
        """
        assert isinstance(model, Matcher)
        columns = self.task.asked
        texts = {column: [text_of(record, column) for record in records] for column in columns}
        asked = [row for row in range(len(records)) if all(texts[column][row].strip() for column in columns)]
        vectors = [self._vectors(model, [texts[column][row] for row in asked]) for column in columns]
        if self.task.label is None:
            given = self._search(model, vectors[0])
            found = [Prediction(None, {"score": None, "found": []})] * len(records)
        else:
            given = self._alike(model, *vectors)
            found = [Prediction(None, {"cosine": None})] * len(records)
        for row, one in zip(asked, given, strict=True):
            found[row] = one
        return found

    def _search(self, model: Matcher, asked: Float[Tensor, "N E"]) -> list[Prediction]:
        found: list[Prediction] = []
        for start in range(0, len(asked), QUESTIONS):
            scores = (asked[start : start + QUESTIONS] @ model.index.float().T).double().cpu().numpy()
            found += [ranked(row, self.texts, self.task.top) for row in scores]
        return found

    @torch.no_grad()
    def _alike(self, model: Matcher, asked: Float[Tensor, "N E"], other: Float[Tensor, "N E"]) -> list[Prediction]:
        assert model.scale is not None and model.bias is not None
        cosines = (asked * other).sum(-1)
        grades = (model.scale * cosines + model.bias).double().sigmoid() * self.task.highest
        return [
            Prediction(round(grade, 6), {"cosine": round(cosine, 6)})
            for grade, cosine in zip(grades.tolist(), cosines.tolist(), strict=True)
        ]

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        task = self.task
        if task.label is not None:
            for record, column in itertools.product(records, task.asked):
                self._text(record, column)  # refuses what a model has nothing to say of
            grades = [task.grade_of(one) / task.highest for one in records]
            said = [Prediction(float(one.value) / task.highest) for one in predictions]
            return score_similarities(said, grades, records, graded=self.graded)
        asked = [self._text(one, task.question) for one in records]
        numbers = [self._numbers.get(_key(self._text(one, task.answer))) for one in records]
        together: dict[str, list[int]] = {}  # the records of each question, whose rankings are the same
        for place, question in enumerate(asked):
            together.setdefault(_key(question), []).append(place)
        first = [places[0] for places in together.values()]
        right = [{n for place in places if (n := numbers[place]) is not None} for places in together.values()]
        return score_rankings(
            [predictions[place] for place in first],
            right,
            [records[place] for place in first],
            texts=self.texts,
            asked=[asked[place] for place in first],
        )

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        task = self.task
        asked = [text_of(one, task.question) for one in records]
        if task.label is not None:
            return self._similarity_baselines(list(train), records)
        found = word_vectors(self.texts, self.texts, asked)
        if found is None:
            return {}
        texts, questions = found
        tables = {"BM25": bm25(self.texts, asked), "TF-IDF": cosine_rows(questions, texts)}
        return {
            name: self.score([ranked(row, self.texts, task.top) for row in table], records)
            for name, table in tables.items()
        }

    def _similarity_baselines(self, train: Sequence[Record], records: Sequence[Record]) -> dict[str, Scores]:
        """Cosines by TF-IDF, brought to .5 where they part the training pairs best; and the usual label."""
        task = self.task
        known = [text_of(one, column) for one in train for column in (task.question, task.answer)]

        grades = np.array([task.grade_of(one) / task.highest for one in train])
        usual = float(np.median(grades)) * task.highest
        found = {"usual label": self.score([Prediction(usual)] * len(records), records)}
        sides = [[text_of(one, column) for one in (*train, *records)] for column in (task.question, task.answer)]
        vectors = word_vectors(known, *sides)
        if vectors is None:
            return found
        shared = np.asarray(vectors[0].multiply(vectors[1]).sum(1), dtype=np.float64).ravel()
        cut = best_cut(shared[: len(train)], grades >= 0.5)
        said = 0.5 + (shared[len(train) :] - cut) / 2
        return {"TF-IDF": self.score([Prediction(float(one) * task.highest) for one in said], records), **found}

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        held = {"context": self.context, "graded": self.graded, "texts": self.texts}
        atomic_write(folder / COLLECTION, json.dumps(held, ensure_ascii=False, indent=1) + "\n")


def _key(text: str) -> str:
    return " ".join(text.split())
