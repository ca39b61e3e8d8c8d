"""What tasks from one text to another have in common: tokenizers of both sides, padded batches, decoding."""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import nn

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.data.subwords import SubwordTokenizer
from attentune.errors import CheckpointError, DataError, SpecError
from attentune.generation import Beam, Hypothesis, Sampling, decode
from attentune.mechanisms import attention
from attentune.models.build import build_encoder_decoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.models.storage import atomic_write
from attentune.shapes import Float, Tensor
from attentune.spec.model import LayerSpec, ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._texts import cell, padded, trained_tokenizer, warn_of_cuts
from attentune.tasks.task import Example, Fitted, Prediction, Scores, Task

HELD = "sequences.json"
TIMES_LONGEST = 2  # the longest text of training, beyond which no text goes on
ROWS = 64  # sources that are decoded together
PLAIN = attention("heads=1")
Ids = Int[np.ndarray, "_"]


class SequenceTask(Task):
    """From one text to another, by an encoder and a decoder.

    What a model says is searched for with `beam` hypotheses (arXiv:1609.08144): of the finished ones the best has the
    greatest log-probability divided by ((5 + length) / 6)^length_penalty, less where `coverage_penalty` is above 0 and
    parts of the source were left unread.
    """

    stack: ClassVar[Literal["encoder-decoder"]] = "encoder-decoder"
    chosen_by: ClassVar[Literal["score", "loss"]] = "loss"  # searching all validation texts after each pass takes long
    shared_vocabulary: bool = True  # one vocabulary and one table of embeddings for both sides
    beam: Annotated[int, Field(ge=1)] = 5  # hypotheses; 1 is greedy
    length_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    coverage_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @property
    def control_column(self) -> str | None:
        """The column whose text is put before the source."""
        return None

    @property
    @abstractmethod
    def read_column(self) -> str:
        """The column that the source is made of."""

    @abstractmethod
    def measure(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        """The task's metrics of `texts` against the references of each."""

    @abstractmethod
    def guesses(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, list[str]]:
        """Simple answers to hold a model against, by name."""

    @abstractmethod
    def references(self, record: Record) -> list[str]:
        """The texts that would be right, of which training learns the first. Raises DataError where there is none."""

    @abstractmethod
    def source_parts(self, record: Record) -> list[str]:
        """The text that is read; where there are several parts, something is hidden between them."""

    def source_text(self, record: Record) -> str:
        """The same as one text."""
        return " ".join(self.source_parts(record))

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedSequences:
        asked = [" ".join(texts_of(one, column)) for column in self.asked for one in records]
        answers = [self.references(one)[0] for one in records]
        if self.shared_vocabulary:
            tokenizers = (trained_tokenizer((*asked, *answers), data, "both"),) * 2
        else:
            tokenizers = trained_tokenizer(asked, data, "source"), trained_tokenizer(answers, data, "target")
        lengths = [len(ids) + 1 for ids in tokenizers[1].encode_batch(answers)]
        fitted = FittedSequences(
            self, *tokenizers, context, longest=min(context, TIMES_LONGEST * max(lengths, default=1))
        )
        warn_of_cuts([len(ids) + 1 for ids in fitted.whole_sources(records)], context, "training sources")
        warn_of_cuts(lengths, context, "training targets")
        return fitted

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedSequences:
        task = cls(**options)
        try:
            held = json.loads((folder / HELD).read_text(encoding="utf-8"))
            context, longest = int(held["context"]), int(held.get("longest", held["context"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / HELD} is missing or damaged: {error}") from None
        if task.shared_vocabulary:
            return FittedSequences(task, *(SubwordTokenizer.load(folder),) * 2, context, longest=longest)
        source, target = (SubwordTokenizer.load(folder / side) for side in ("source", "target"))
        return FittedSequences(task, source, target, context, longest=longest)


@final
class FittedSequences(Fitted):
    """A `SequenceTask` with its tokenizers.

    `context` is the most tokens of a side that are read, `longest` the most that are written, the end of the text
    included: twice those of the longest text in training, so that a model which never ends is stopped.
    """

    task: SequenceTask

    def __init__(
        self,
        task: SequenceTask,
        source_tokenizer: SubwordTokenizer,
        target_tokenizer: SubwordTokenizer,
        context: int,
        *,
        longest: int,
    ) -> None:
        self.task, self.context, self.longest = task, context, longest
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer

    def complete(self, spec: ModelSpec) -> ModelSpec:
        """The model with both vocabularies.

        Where the spec says nothing of an encoder it is like the decoder, but sees all of its text. Where no layer of
        the decoder says how it looks at the encoder, each does so with heads like those of its self-attention.
        """
        sizes = {"context": self.context, "vocab_size": self.source_tokenizer.vocab_size}
        encoder = _like_decoder(spec) if spec.encoder is None else spec.encoder
        encoder = encoder.replace(**sizes)
        if "embedding" in spec.share and not self.task.shared_vocabulary:
            raise SpecError(
                "share=embedding needs one vocabulary: say shared_vocabulary=true in the task, or leave it out"
            )
        shared = self.task.shared_vocabulary and encoder.width == spec.width
        return spec.replace(
            context=self.context,
            vocab_size=self.target_tokenizer.vocab_size,
            layers=_looking(spec.layers),
            encoder=encoder,
            share=(*(name for name in spec.share if name != "embedding"), *(("embedding",) if shared else ())),
        )

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> EncoderDecoder:
        return build_encoder_decoder(spec, seed=seed)

    def example(self, record: Record) -> Example:
        text = self.task.references(record)[0]
        if not self.task.source_text(record).strip():
            raise DataError(f"{record.where}: column {self.task.read_column!r} holds no text; leave such rows out")
        tokenizer = self.target_tokenizer
        whole = np.array([tokenizer.begin, *tokenizer.encode(text), tokenizer.end], dtype=np.int32)
        return Example(
            whole[:-1][: self.context], whole[1:][: self.context].astype(np.int64), self._sources([record])[0]
        )

    def whole_sources(self, records: Sequence[Record]) -> list[Ids]:
        """The tokens of each source, behind those of its control prefix and a separator, before it is cut."""
        tokenizer, control = self.source_tokenizer, self.task.control_column
        texts = self._joined([self.task.source_parts(one) for one in records])
        if control is None:
            return texts
        prefixes = tokenizer.encode_batch([" ".join(texts_of(one, control)) for one in records])
        between = np.array([tokenizer.separator], dtype=np.int32)
        return [np.concatenate([prefix, between, text]) for prefix, text in zip(prefixes, texts, strict=True)]

    def _joined(self, parts: Sequence[Sequence[str]]) -> list[Ids]:
        """The tokens of each source, a mask between its parts."""
        encoded = iter(self.source_tokenizer.encode_batch([part for each in parts for part in each]))
        mask = np.array([self.source_tokenizer.mask], dtype=np.int32)
        return [np.concatenate([ids for _ in each for ids in (mask, next(encoded))][1:]) for each in parts]

    def _sources(self, records: Sequence[Record]) -> list[Ids]:
        """The same, cut, each with its end."""
        end = np.array([self.source_tokenizer.end], dtype=np.int32)
        return [np.concatenate([ids[: self.context - 1], end]) for ids in self.whole_sources(records)]

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        pad = self.target_tokenizer.pad
        ids, layout = padded([one.ids for one in examples], pad, device)
        targets, _ = padded([one.targets for one in examples], IGNORED, device)
        source, source_layout = padded([one.source for one in examples if one.source is not None], pad, device)
        own = sum(len(one.targets) for one in examples)
        return MicroBatch(
            ids, targets, layout, own / (scored or own), inputs={"source": source, "source_layout": source_layout}
        )

    @property
    def decoding(self) -> Beam:
        """How the task asks for texts to be searched."""
        task = self.task
        return Beam(
            width=task.beam,
            length_penalty=task.length_penalty,
            coverage_penalty=task.coverage_penalty,
            max_length=self.longest,
        )

    def predict(
        self, model: nn.Module, records: Sequence[Record], *, decoding: Beam | Sampling | None = None
    ) -> list[Prediction]:
        """Texts with their scores; `decoding` replaces the task's own. A source without text gives an empty text.

        `ended` is false where a text was cut at the most tokens. `alternatives` are further texts, where asked for.
        """
        assert isinstance(model, EncoderDecoder)
        by = self.decoding if decoding is None else decoding
        several = isinstance(by, Beam) and by.alternatives > 1
        nothing: dict[str, Any] = {"score": 0.0, "ended": True, **({"alternatives": []} if several else {})}
        found = [Prediction("", nothing)] * len(records)
        rows = [row for row, one in enumerate(records) if self.task.source_text(one).strip()]
        asked = [records[row] for row in rows]
        if long := sum(len(ids) >= self.context for ids in self.whole_sources(asked)):
            warnings.warn(
                f"{long} of {len(records)} sources are longer than {self.context - 1} tokens and are cut there",
                DataWarning,
                stacklevel=2,
            )
        given = self._decoded(model, asked, by)
        for row, hypotheses in zip(rows, given, strict=True):
            texts = [self.target_tokenizer.decode(one.tokens) for one in hypotheses]
            fields: dict[str, Any] = {"score": round(hypotheses[0].score, 6), "ended": hypotheses[0].ended}
            if several:
                fields["alternatives"] = texts[1:]
            found[row] = Prediction(texts[0], fields)
        return found

    def _decoded(
        self, model: EncoderDecoder, records: Sequence[Record], by: Beam | Sampling, *, weigh: bool = False
    ) -> list[list[Hypothesis]]:
        return decode(
            model,
            [ids.tolist() for ids in self._sources(records)],
            by=by,
            start=self.target_tokenizer.begin,
            end=self.target_tokenizer.end,
            tokens=None if isinstance(by, Beam) else self.longest,
            batch=ROWS,
            weigh=weigh,
        )

    def attention(self, model: nn.Module, record: Record) -> tuple[list[str], list[str], Float[Tensor, "L K"]]:
        """Tokens of the source, tokens that the model says, and how much each of these looked at each of those.

        The weights are the last layer's, the mean over its heads.
        """
        assert isinstance(model, EncoderDecoder)
        best = self._decoded(model, [record], self.decoding, weigh=True)[0][0]
        assert best.weights is not None
        said = [*best.tokens, *([self.target_tokenizer.end] if best.ended else [])]
        return (
            self.source_tokenizer.tokens(self._sources([record])[0]),
            self.target_tokenizer.tokens(said),
            best.weights,
        )

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        if not records:
            raise DataError("there are no records to be scored")
        return self.task.measure([str(one.value) for one in predictions], [self.task.references(r) for r in records])

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        references = [self.task.references(record) for record in records]
        guesses = self.task.guesses(train, records)
        return {name: self.task.measure(texts, references) for name, texts in guesses.items()}

    def save(self, folder: Path) -> None:
        if self.task.shared_vocabulary:
            self.source_tokenizer.save(folder)
        else:
            for side, tokenizer in (("source", self.source_tokenizer), ("target", self.target_tokenizer)):
                (folder / side).mkdir(exist_ok=True)
                tokenizer.save(folder / side)
        atomic_write(folder / HELD, json.dumps({"context": self.context, "longest": self.longest}) + "\n")


def texts_of(record: Record, column: str) -> list[str]:
    """The text, or the texts of the list, in `column`; of nothing an empty list.

    Raises:
        DataError: there is no such column, or it holds no text.
    """
    held = cell(record, column)
    parts = held if isinstance(held, list | tuple) else [] if held is None else [held]
    for part in parts:
        if not isinstance(part, str | int | float) or isinstance(part, bool):
            raise DataError(f"{record.where}: column {column!r} holds {type(part).__name__}, where text is needed")
    return [str(part) for part in parts]


def _like_decoder(spec: ModelSpec) -> ModelSpec:
    """The encoder that stands beside a decoder: the same sizes and attentions, whole texts in view."""
    layers = tuple(
        layer.replace(
            cross=None, attention=None if layer.attention is None else layer.attention.replace(mask=PLAIN.mask)
        )
        for layer in spec.layers
    )
    return spec.replace(layers=layers, share=tuple(name for name in spec.share if name != "embedding"))


def _looking(layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    """Layers that look at the encoder: as they say, or where none says so, plainly, with their own kind of heads."""
    if any(layer.cross is not None for layer in layers):
        return layers
    if any(layer.attention is None for layer in layers):
        raise SpecError(
            "layers without attention do not say how they look at the encoder: add cross=attention(heads=...)"
        )
    return tuple(
        layer.replace(cross=PLAIN.replace(heads=layer.attention.heads))
        for layer in layers
        if layer.attention is not None
    )
