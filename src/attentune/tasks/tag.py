"""A tag for each token of a sentence: names and other entities in IOB2, or the parts of speech."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import nn

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.encoding import DataWarning
from attentune.data.records import Record
from attentune.data.subwords import SubwordTokenizer
from attentune.data.tagging import Scheme, as_iob2, likeliest_scheme, parted
from attentune.errors import CheckpointError, DataError, near
from attentune.models.build import seeded
from attentune.models.storage import atomic_write
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._ensemble import Members, alone_or_together
from attentune.tasks._spans import KnownPhrases, are_spans, best_sequence, entities, transitions
from attentune.tasks._tagging import score_tags
from attentune.tasks._texts import Column, cell, in_batches, padded, trained_tokenizer, warn_of_cuts
from attentune.tasks.heads import Tagger
from attentune.tasks.task import Array, Example, Fitted, Prediction, Scores, Task

Share = Annotated[float, Field(ge=0, lt=1)]
TAGS = "tags.json"


@final
class Tag(Task):
    """`tokens`, the words or characters of a sentence, to as many `tags`.

    A word may be several pieces of the tokenizer: the first of them carries its tag. Where the tags are of entities
    (`B-place`, `I-place`, `O`; IOB1 and BIOES are read too), they are learnt, predicted and counted as IOB2, and no
    sequence is predicted that IOB2 does not allow.
    """

    kind: Literal["tag"] = "tag"
    stack: ClassVar[Literal["encoder"]] = "encoder"
    tokens: Column = "tokens"
    tags: Column = "tags"
    dropout: Share = 0.3  # before the output layer
    word_dropout: Share = 0.1  # share of pieces that training reads as unknown ones
    members: Members = 1  # models that learn side by side, whose probabilities are averaged

    @model_validator(mode="after")
    def _columns_differ(self) -> Tag:
        if self.tokens == self.tags:
            raise ValueError(f"tokens and tags are different columns, got {self.tokens!r} for both")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.tokens, self.tags)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.tokens,)

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedTag:
        counts = Counter(tag for one in records for tag in self.tags_of(one))
        if len(counts) < 2:
            where = records[0].where.partition(",")[0] if records else "the training data"
            raise DataError(f"{where}: column {self.tags!r} holds {len(counts)} tags; at least 2 are needed")
        tags, marks = set(counts), [parted(tag) for tag in counts]
        if all(marks):  # in IOB2, whatever the records have; what begins may go on, although training never shows it
            tags = {"O"} | {f"{letter}-{mark[1]}" for mark in marks if mark and mark[1] for letter in "BI"}
            _warn_of_breaks(
                [self.tags_of(one) for one in records], ends=any(mark and mark[0] in "ES" for mark in marks)
            )
        elif any(tag[1:2] == "-" for tag in tags):
            strange = next(tag for tag in sorted(tags) if parted(tag) is None)
            warnings.warn(
                f"tags such as {strange!r} are none of entities (B-, I-, E-, S-, O): each tag is learned and counted "
                "by itself, and no order of them is enforced",
                DataWarning,
                stacklevel=2,
            )
        tokenizer = trained_tokenizer((" ".join(self.words_of(one)) for one in records), data)
        fitted = FittedTag(self, tokenizer, tuple(sorted(tags)), context)
        warn_of_cuts([len(fitted.pieces(self.words_of(one))[0]) for one in records], context, "training sentences")
        return fitted

    def words_of(self, record: Record) -> list[str]:
        """The tokens of a record: those of a list, or the words of a text. Raises DataError where there are none."""
        held = cell(record, self.tokens)
        words = held.split() if isinstance(held, str) else held
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{record.where}: column {self.tokens!r} holds no list of tokens")
        return list(words)

    def tags_of(self, record: Record) -> list[str]:
        """As many tags as tokens. Raises DataError where there are more or fewer, or no list of tags."""
        held = cell(record, self.tags)
        tags = held.split() if isinstance(held, str) else [] if held is None else held
        if not isinstance(tags, list | tuple):
            raise DataError(f"{record.where}: column {self.tags!r} holds {held!r}, not a list of tags")
        if len(tags) != len(self.words_of(record)):
            raise DataError(f"{record.where}: {len(self.words_of(record))} tokens but {len(tags)} tags")
        return [str(tag) for tag in tags]

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedTag:
        try:
            held = json.loads((folder / TAGS).read_text(encoding="utf-8"))
            tags, context = tuple(map(str, held["tags"])), int(held["context"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / TAGS} is missing or damaged: {error}") from None
        return FittedTag(cls(**options), SubwordTokenizer.load(folder), tags, context)


def _warn_of_breaks(sentences: Sequence[Sequence[str]], *, ends: bool) -> None:
    """Tags that break the rules of the scheme that the sentences keep to most are told; they are read all the same."""
    schemes: tuple[Scheme, ...] = ("bioes",) if ends else ("iob2", "iob1")
    broken = {scheme: sum(len(as_iob2(tags, scheme)[1]) for tags in sentences) for scheme in schemes}
    scheme = likeliest_scheme(broken, ends=ends)
    if broken[scheme]:
        warnings.warn(
            f"{broken[scheme]} tags break the rules of {scheme.upper()}: what goes on with nothing begins an entity",
            DataWarning,
            stacklevel=3,
        )


@final
class FittedTag(Fitted):
    """`Tag` with its tokenizer and tags; `context` is the most pieces that are read at once."""

    task: Tag

    def __init__(self, task: Tag, tokenizer: SubwordTokenizer, tags: tuple[str, ...], context: int) -> None:
        self.task, self.tokenizer, self.tags, self.context = task, tokenizer, tags, context
        self.spans = are_spans(tags)
        self._numbers = {tag: number for number, tag in enumerate(tags)}
        self._first, self._following = transitions(tags if self.spans else ["O"] * len(tags))

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return spec.replace(vocab_size=self.tokenizer.vocab_size, context=self.context)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        def one() -> Tagger:
            return Tagger(
                spec,
                classes=len(self.tags),
                dropout=self.task.dropout,
                hidden_share=self.task.word_dropout,
                unknown=self.tokenizer.unknown,
                special=self.tokenizer.special,
            )

        return seeded(lambda: alone_or_together(one, self.task.members), seed)

    def pieces(self, words: Sequence[str]) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " words"]]:
        """The ids of a sentence, and where in them each word begins; a word without any is one unknown piece."""
        parts = [ids if len(ids) else [self.tokenizer.unknown] for ids in self.tokenizer.encode_batch(list(words))]
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        ids = np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)
        return ids, starts[:-1]

    def example(self, record: Record) -> Example:
        words, tags = self.task.words_of(record), self.tags_of(record)
        if not words:
            raise DataError(f"{record.where}: column {self.task.tokens!r} holds no tokens; leave such records out")
        ids, starts = self.pieces(words)
        targets = np.full(len(ids), IGNORED, dtype=np.int64)
        targets[starts] = self._known(tags, record)
        return Example(ids[: self.context], targets[: self.context])

    def tags_of(self, record: Record) -> list[str]:
        """As many tags as tokens, those of entities in IOB2 however they are written.

        Raises:
            DataError: there are more or fewer tags than tokens; or the model's tags are of entities, and one is not.
        """
        tags = self.task.tags_of(record)
        if not self.spans:
            return tags
        if odd := [tag for tag in tags if parted(tag) is None]:
            raise DataError(
                f"{record.where}: tag {odd[0]!r} is neither O nor, as in training, B-, I-, E- or S- with a kind: "
                "correct it or leave such sentences out"
            )
        return as_iob2(tags, "iob2")[0]

    def _known(self, tags: Sequence[str], record: Record) -> list[int]:
        for tag in tags:
            if tag not in self._numbers:
                raise DataError(
                    f"{record.where}: tag {tag!r} does not occur in the training data: correct it or "
                    f"leave such sentences out; {near(tag, self.tags)}"
                )
        return [self._numbers[tag] for tag in tags]

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        ids, layout = padded([one.ids for one in examples], self.tokenizer.pad, device)
        targets, _ = padded([one.targets for one in examples], IGNORED, device)
        whole = int((targets != IGNORED).sum())
        return MicroBatch(ids, targets, layout, whole / max(scored or whole, 1))

    @torch.inference_mode()
    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        model.eval()
        sentences = [self.task.words_of(record) for record in records]
        windows: list[tuple[int, Array, Array]] = []
        for number, words in enumerate(sentences):
            windows += [(number, *piece) for piece in self._windows(words)]
        device = next(model.parameters()).device
        found: list[Array] = [np.zeros((0, len(self.tags)))] * len(windows)
        for chosen in in_batches([ids for _, ids, _ in windows]):
            ids, layout = padded([windows[place][1] for place in chosen], self.tokenizer.pad, device)
            scores = model(ids, layout).logits.float().log_softmax(-1).double().cpu().numpy()
            for row, place in enumerate(chosen):
                found[place] = scores[row, windows[place][2]]
        joined: dict[int, list[Any]] = defaultdict(list)
        for (number, _, _), scores in zip(windows, found, strict=True):
            joined[number].append(scores)
        nothing = [np.zeros((0, len(self.tags)))]
        return [
            self._prediction(words, np.concatenate(joined.get(number, nothing)))
            for number, words in enumerate(sentences)
        ]

    def _windows(self, words: Sequence[str]) -> list[tuple[Array, Array]]:
        """A sentence in parts of at most `context` pieces, cut between words: so that every word gets a tag."""
        if not words:
            return []
        ids, starts = self.pieces(words)
        cuts, ends = [0], [*starts.tolist()[1:], len(ids)]
        for word, end in enumerate(ends):
            if end - starts[cuts[-1]] > self.context and word > cuts[-1]:
                cuts.append(word)
        parts = []
        for first, last in zip(cuts, [*cuts[1:], len(words)], strict=True):
            if first < last:
                begin = int(starts[first])
                stop = min(ends[last - 1], begin + self.context)  # of a word longer than all: its beginning
                parts.append((ids[begin:stop], starts[first:last] - begin))
        return parts

    def _prediction(self, words: Sequence[str], scores: Float[np.ndarray, "words C"]) -> Prediction:
        chosen = best_sequence(scores, self._first, self._following)
        tags = [self.tags[number] for number in chosen]
        sure = [round(float(np.exp(scores[place, number])), 6) for place, number in enumerate(chosen)]
        if not self.spans:
            return Prediction(tags, {"probabilities": sure})
        named = [
            {"kind": one.kind, "start": one.start, "end": one.end, "tokens": list(words[one.start : one.end])}
            for one in entities(tags)
        ]
        return Prediction(tags, {"entities": named, "probabilities": sure})

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        expected = [self.tags_of(record) for record in records]
        return score_tags(
            expected, predictions, records, words=[self.task.words_of(record) for record in records], spans=self.spans
        )

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        known = [(self.task.words_of(one), self.tags_of(one)) for one in train]
        asked = [self.task.words_of(one) for one in records]
        if self.spans:
            phrases = KnownPhrases(known)
            answers = {"names seen in training": [phrases.tags(words) for words in asked]}
        else:
            counts: dict[str, Counter[str]] = defaultdict(Counter)
            for words, tags in known:
                for word, tag in zip(words, tags, strict=True):
                    counts[word][tag] += 1
            usual = Counter(tag for _, tags in known for tag in tags).most_common(1)[0][0]
            best = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
            answers = {"each word's commonest tag": [[best.get(word, usual) for word in words] for words in asked]}
        return {name: self.score([Prediction(tags) for tags in given], records) for name, given in answers.items()}

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        held = {"tags": self.tags, "context": self.context}
        atomic_write(folder / TAGS, json.dumps(held, ensure_ascii=False, indent=1) + "\n")
