"""Hidden tokens of a text, restored: what encoders are pre-trained on (BERT, arXiv:1810.04805)."""

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
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.records import Record
from attentune.data.subwords import SPECIAL, SubwordTokenizer
from attentune.errors import CheckpointError, DataError
from attentune.models.build import seeded
from attentune.models.storage import atomic_write
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec
from attentune.tasks._language_scores import NOT_COUNTED, Tally, totalled
from attentune.tasks._masking import masked
from attentune.tasks._restorer import Restorer
from attentune.tasks._texts import Column, in_batches, padded, text_of, trained_tokenizer
from attentune.tasks.task import Array, Example, Fitted, Prediction, Scores, Task

HELD = "mlm.json"
MASK = SPECIAL["mask_token"]
LEAST = 2  # tokens of a text: of a single one nothing tells what it was
FIXED = 0  # seed of the tokens that are hidden where a model is measured
ALTERNATIVES = 5


@final
class Mlm(Task):
    """Masked language modelling: `mlm(text=column)` learns to restore hidden tokens of plain text.

    A share of 15 % of the tokens of a text is drawn anew in each pass: 80 % of them are shown as `<mask>`, 10 % as any
    other token, 10 % as they are. With `whole_word` all tokens of a word are drawn together. A text that is longer than
    the context is read in parts. Figures are of tokens that are always the same; of a text with `<mask>` in it a
    prediction tells the likeliest tokens there (`fills`), of any other text it hides tokens by itself and writes what
    it takes them for, with the sum of their losses in `nats`.
    """

    kind: Literal["mlm"] = "mlm"
    stack: ClassVar[Literal["encoder"]] = "encoder"
    chosen_by: ClassVar[Literal["score", "loss"]] = "loss"
    text: Column = "text"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15  # of the tokens, to be restored
    whole_word: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.text,)

    def usable(self, record: Record) -> bool:
        return bool(text_of(record, self.text).strip())

    def fit(self, records: Sequence[Record], data: DataSpec, *, context: int) -> FittedMlm:
        tokenizer = trained_tokenizer((text_of(one, self.text) for one in records), data)
        if context <= 2 * tokenizer.framed:
            raise DataError(f"context={context} has no room for a text between its first and last token")
        return FittedMlm(self, tokenizer, context)

    @classmethod
    def load(cls, options: Mapping[str, Any], folder: Path) -> FittedMlm:
        try:
            context = int(json.loads((folder / HELD).read_text(encoding="utf-8"))["context"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / HELD} is missing or damaged: {error}") from None
        return FittedMlm(cls(**options), SubwordTokenizer.load(folder), context)


@final
class FittedMlm(Fitted):
    """`Mlm` with its tokenizer; `context` is the most tokens of a part of a text."""

    task: Mlm

    def __init__(self, task: Mlm, tokenizer: SubwordTokenizer, context: int) -> None:
        self.task, self.tokenizer, self.context = task, tokenizer, context
        self._texts = np.flatnonzero(tokenizer.pieces.byte_lengths > 0)  # tokens that stand for text

    def complete(self, spec: ModelSpec) -> ModelSpec:
        return spec.replace(vocab_size=self.tokenizer.vocab_size, context=self.context)

    def build(self, spec: ModelSpec, *, seed: int | None = None) -> nn.Module:
        return seeded(lambda: Restorer(spec), seed)

    def example(self, record: Record) -> Example:
        found = self.examples(record)
        if not found:
            raise DataError(f"{record.where}: column {self.task.text!r} holds too little text; leave such rows out")
        return found[0]

    def examples(self, record: Record) -> list[Example]:
        """The parts of a text; none where it is empty, as lines of a file may be, or all its tokens are unknown."""
        ids = self.tokenizer.encode(text_of(record, self.task.text))
        parts = [part for part in self._parts(ids, LEAST) if not np.isin(part, self.tokenizer.special).all()]
        return [self._hidden(part, self._fixed(part)) for part in parts]

    def redrawn(self, example: Example, random: np.random.Generator) -> Example:
        whole = np.where(example.targets == IGNORED, example.ids, example.targets)
        return self._hidden(whole.astype(np.int32), random)

    def _parts(self, ids: Array, least: int) -> list[Array]:
        """At most a context of tokens and at `least` so many each, with those around them that the model is used to.

        A last part that would be too short has a token of the one before it.
        """
        size = self.context - 2 * self.tokenizer.framed
        starts = list(range(0, len(ids), size))
        if len(starts) > 1 and size > LEAST:
            starts[-1] = min(starts[-1], len(ids) - LEAST)
        parts = [ids[start:end] for start, end in itertools.pairwise([*starts, len(ids)])]
        start, end = ([self.tokenizer.classifier], [self.tokenizer.separator]) if self.tokenizer.framed else ([], [])
        return [np.concatenate([start, part, end]).astype(np.int32) for part in parts if len(part) >= least]

    def _fixed(self, ids: Array) -> np.random.Generator:
        """Random numbers that depend on the text alone."""
        return np.random.default_rng((FIXED, zlib.crc32(ids.tobytes())))

    def _hidden(self, ids: Array, random: np.random.Generator) -> Example:
        shown, targets = masked(
            ids,
            random,
            share=self.task.share,
            mask=self.tokenizer.mask,
            free=~np.isin(ids, self.tokenizer.special),
            drawn_from=self._texts,
            words=self.tokenizer.pieces.words(ids) if self.task.whole_word else None,
        )
        return Example(shown, targets)

    def batch(self, examples: Sequence[Example], device: torch.device, *, scored: int | None = None) -> MicroBatch:
        ids, layout = padded([one.ids for one in examples], self.tokenizer.pad, device)
        length = ids.shape[1]
        chosen = [np.flatnonzero(one.targets != IGNORED) for one in examples]
        places = np.concatenate([row * length + each for row, each in enumerate(chosen)])
        targets = np.concatenate([one.targets[each] for one, each in zip(examples, chosen, strict=True)])
        return MicroBatch(
            ids,
            torch.from_numpy(targets)[None].to(device),
            layout,
            len(targets) / max(scored or len(targets), 1),
            inputs={"places": torch.from_numpy(places).to(device)},
        )

    @torch.inference_mode()
    def predict(self, model: nn.Module, records: Sequence[Record]) -> list[Prediction]:
        """Of a text with `<mask>`: the text with the likeliest tokens there, and others with their probabilities.

        Of any other: the text as the model restores the tokens that are always hidden in it, with the sum of their
        losses in `nats`. What the other sort of text has is None.
        """
        model.eval()
        parts: list[tuple[int, Example]] = []
        fields: list[dict[str, Any]] = []
        for number, record in enumerate(records):
            text = text_of(record, self.task.text)
            asked = MASK in text
            fields.append({**NOT_COUNTED, "fills": []} if asked else {**Tally().as_fields(), "fills": None})
            parts += [(number, one) for one in (self._question(text) if asked else self.examples(record))]
        restored: list[Array] = [np.zeros(0, dtype=np.int32)] * len(parts)
        fills: list[list[list[dict[str, Any]]]] = [[]] * len(parts)
        for chosen in in_batches([one.ids for _, one in parts]):
            for place, logits in zip(chosen, self._logits(model, [parts[place][1] for place in chosen]), strict=True):
                number, one = parts[place]
                restored[place] = one.ids.copy()
                restored[place][one.targets != IGNORED] = logits.argmax(-1).numpy()
                if fields[number]["fills"] is not None:
                    fills[place] = self._fills(logits)
                else:
                    self._count(one.targets[one.targets != IGNORED], logits, fields[number])
        whole: list[list[int]] = [[] for _ in records]  # a word or a text without spaces may lie across parts
        for (number, _), ids, found in zip(parts, restored, fills, strict=True):
            whole[number] += (ids[1:-1] if self.tokenizer.framed else ids).tolist()
            if fields[number]["fills"] is not None:
                fields[number]["fills"] += found
        return [
            Prediction(self.tokenizer.decode(ids) if ids else "", held) for ids, held in zip(whole, fields, strict=True)
        ]

    def _question(self, text: str) -> list[Example]:
        """The parts of a text with masks; what these stand for is not known."""
        mask = np.array([self.tokenizer.mask], dtype=np.int32)
        pieces = [part for text in self.tokenizer.encode_batch(text.split(MASK)) for part in (mask, text)][1:]
        parts = self._parts(np.concatenate(pieces), 1)
        return [Example(ids, np.where(ids == self.tokenizer.mask, self.tokenizer.mask, IGNORED)) for ids in parts]

    def _logits(self, model: nn.Module, examples: Sequence[Example]) -> list[Float[Tensor, "N V"]]:
        """Of the hidden tokens of each."""
        part = self.batch(examples, next(model.parameters()).device)
        logits = model(part.ids, part.layout, **part.inputs).logits[0].float().cpu()
        return list(logits.split([int((one.targets != IGNORED).sum()) for one in examples]))

    def _fills(self, logits: Float[Tensor, "N V"]) -> list[list[dict[str, Any]]]:
        """The likeliest tokens of each place."""
        shares, numbers = logits.softmax(-1).topk(min(ALTERNATIVES, logits.shape[-1]))
        return [
            [
                {"token": token.strip(), "probability": round(share, 6)}
                for token, share in zip(self.tokenizer.tokens(row), each, strict=True)
            ]
            for row, each in zip(numbers.tolist(), shares.tolist(), strict=True)
        ]

    def _count(self, targets: Array, logits: Float[Tensor, "N V"], held: dict[str, Any]) -> None:
        pieces, wanted = self.tokenizer.pieces, torch.from_numpy(targets)
        tally = Tally(
            nats=float(F.cross_entropy(logits, wanted, reduction="sum")),
            tokens=len(targets),
            right=int((logits.argmax(-1) == wanted).sum()),
            characters=int(pieces.character_lengths[targets].sum()),
            bytes=int(pieces.byte_lengths[targets].sum()),
        )
        tally.add(held)
        held.update(tally.as_fields())

    def score(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
        del records  # the texts themselves are the answers
        how = f"mean over {self.task.share:.0%} of the tokens, drawn once{', whole words' * self.task.whole_word}"
        return totalled(predictions, "accuracy", how)

    def baseline(self, train: Iterable[Record], records: Sequence[Record]) -> dict[str, Scores]:
        """The commonest token everywhere, with the frequencies of training as probabilities (one added to each)."""
        counts = np.ones(self.tokenizer.vocab_size)
        for ids in self.tokenizer.encode_batch([text_of(one, self.task.text) for one in train]):
            np.add.at(counts, ids, 1)
        logits = torch.from_numpy(np.log(counts / counts.sum())).float()
        tally = Tally().as_fields()
        for record in records:
            for one in self.examples(record):
                targets = one.targets[one.targets != IGNORED]
                self._count(targets, logits.expand(len(targets), -1), tally)
        given = [Prediction("", tally)]
        return {"token frequencies": self.score(given, records)}

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        atomic_write(folder / HELD, json.dumps({"context": self.context}) + "\n")
