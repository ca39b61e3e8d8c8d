"""What a model is trained on and measured by, as the loop sees it."""

from __future__ import annotations

from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from attentune.data.corpus import Corpus
from attentune.evaluation.language import LanguageScore, evaluate_language, language_loss
from attentune.spec.run import RunSpec
from attentune.training.feed import Feed, step_feed


@runtime_checkable
class Source(Protocol):
    """Batches to train on, and a way to tell how good a model has become."""

    @property
    def fingerprint(self) -> str:
        """Equal where every batch is the same; a run goes on only with an equal one."""

    def feed(self, run: RunSpec, *, has_memory: bool, device: torch.device) -> Feed:
        """The data of each step: a pure function of (run, step)."""

    def evaluate(self, model: nn.Module, run: RunSpec, *, last: bool) -> tuple[float, LanguageScore | None]:
        """The loss on what was held out in nats per scored token, and the score as a language model if it is one.

        `last` asks for everything that was held out.
        """


@runtime_checkable
class Remembering(Protocol):
    """A source that keeps something of what it has measured, such as the best weights so far.

    It stands in every checkpoint, so that a run that was killed and goes on ends with the same.
    """

    def remembered(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and plain data."""

    def remember(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes back what `remembered` gave; nothing at all is how a run begins."""


@final
class TextSource:
    """The training text of a corpus, measured on its validation text."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    @property
    def fingerprint(self) -> str:
        return str(self.corpus.fingerprint)

    def feed(self, run: RunSpec, *, has_memory: bool, device: torch.device) -> Feed:
        return step_feed(self.corpus.train, run, has_memory=has_memory, device=device)

    def evaluate(self, model: nn.Module, run: RunSpec, *, last: bool) -> tuple[float, LanguageScore | None]:
        text, isolate = self.corpus.validation, run.data.isolate_documents
        if last:
            score = evaluate_language(
                model, text, self.corpus.tokenizer, context=run.context, isolate_documents=isolate
            )
            return score.nats_per_token, score
        limit = run.evaluate_tokens
        return language_loss(model, text, context=run.context, limit=limit, isolate_documents=isolate), None
