"""A text, judged by its loss as a language model in nats per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.nn import functional as F

from attentune.data.batches import IGNORED, validation_batches
from attentune.data.corpus import Corpus
from attentune.errors import AttentuneError
from attentune.evaluation.cost import median_seconds, training_cost
from attentune.generation.generate import complete
from attentune.generation.sampling import Sampling
from attentune.models.build import build
from attentune.models.checkpoint import Saves, save_model
from attentune.models.decoder import Decoder
from attentune.search.models import LanguageModels
from attentune.search.pictures import AttentionPicture
from attentune.search.result import DataResult, Measure, Sample
from attentune.search.subject import Costs, Judged, Probe, Seconds, Subject
from attentune.search.texts import final_corpus, shortened
from attentune.spec.model import ModelSpec
from attentune.spec.run import RunSpec
from attentune.training.loop import train
from attentune.training.result import TrainResult

PARTS = 8  # of the context, for the loss by position
POSITION_TOKENS = 16_384  # validation tokens that the loss by position is measured on
MEASURED_TOKENS = 8  # single tokens timed for the latency
TIMED_TOKENS = 8192
PICTURE_TOKENS = 32
PROMPT_CHARACTERS = 24


@final
class TextSubject(Subject):
    """A corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.measure, self.models = corpus, Measure(), LanguageModels(corpus.vocab_size)
        self.size, self.whole = len(corpus.validation), len(corpus.train) + len(corpus.validation)

    @property
    def fingerprint(self) -> str:
        return str(self.corpus.fingerprint)

    @property
    def source(self) -> Corpus:
        return self.corpus

    def on_the_way(self, step: int, loss: float) -> float:
        del step
        return loss

    def judge(self, model: nn.Module, result: TrainResult, *, final: bool = False) -> Judged:
        del final
        score = result.final
        assert score is not None and isinstance(model, Decoder)
        parts = loss_by_position(model, self.corpus, model.spec.context)
        return Judged(
            score.nats_per_token,
            bits_per_character=score.bits_per_character,
            bits_per_byte=score.bits_per_byte,
            by_position=parts,
        )

    def costs(self, spec: ModelSpec, run: RunSpec, device: torch.device) -> Costs:
        return _costs(spec, run.batch, run.context, str(device))

    def timed(self, model: nn.Module, run: RunSpec) -> Seconds:
        small = replace(self.corpus, validation=shortened(self.corpus, TIMED_TOKENS).validation)
        train(model, small, run.replace(steps=5))
        found = train(model, small, run)
        step = run.tokens_per_step / found.tokens_per_second
        return Seconds(step, 0.0, max(0.0, found.seconds - step * run.steps) / len(small.validation))

    def searched(self, size: int) -> TextSubject:
        shorter = shortened(self.corpus, size)
        return self if shorter is self.corpus else TextSubject(shorter)

    def search_size(self, tokens: int) -> int:
        return min(tokens, self.size)

    def fold(self, folds: int, number: int) -> TextSubject:
        return TextSubject(final_corpus(self.corpus, folds, number)) if folds else self

    def most_steps(self, run: RunSpec) -> int | None:
        del run
        return None

    def data(self, tokenizer: str) -> DataResult:
        corpus = self.corpus
        return DataResult(
            description=corpus.source,
            fingerprint=corpus.fingerprint,
            tokenizer=tokenizer,
            vocabulary=corpus.vocab_size,
            train_tokens=len(corpus.train),
            validation_tokens=len(corpus.validation),
        )

    def protocol(self, tokens: int, *, folds: int) -> str:
        share = "all" if tokens >= self.size else f"the first {tokens:,} tokens"
        after = (
            "the folds contain that part, and text that the search was trained on"
            if folds
            else "the finals are measured on the whole of that part"
        )
        return (
            f"The search chose attention and settings by the loss on {share} of the text's validation part with one "
            f"seed; {after}, so their seeds are fresh but their text is not: gains may be slightly too good."
        )

    def save(self, folder: Path, model: nn.Module, *, card: str, extra: Mapping[str, Any]) -> None:
        assert isinstance(model, Decoder)
        tokenizer = self.corpus.tokenizer
        save_model(folder, model, tokenizer=tokenizer if isinstance(tokenizer, Saves) else None, card=card, extra=extra)

    def probe(self, model: nn.Module) -> Probe:
        assert isinstance(model, Decoder)
        length = min(model.spec.context, len(self.corpus.validation))
        ids = torch.from_numpy(self.corpus.validation.ids[:length].astype("int64"))[None]
        with torch.no_grad():
            return Probe(model.eval()(ids).logits.contiguous(), inputs={"ids": ids})

    def sample(self, model: nn.Module, *, tokens: int = 300, seed: int = 0) -> Sample | None:
        """A continuation of the beginning of the validation text; None where the attention cannot decode."""
        assert isinstance(model, Decoder)
        corpus = self.corpus
        start = corpus.tokenizer.decode(corpus.validation.ids[: model.spec.context // 2].tolist())
        prompt = start[:PROMPT_CHARACTERS] or "\n"
        sampling = Sampling(temperature=0.8, top_k=min(50, corpus.vocab_size), seed=seed)
        try:
            text = complete(model, corpus.tokenizer, prompt, tokens=tokens, sampling=sampling)
        except AttentuneError:
            return None
        return Sample(prompt=prompt, text=text, settings=f"temperature 0.8, top-k {sampling.top_k}, seed {seed}")

    def picture(self, model: nn.Module) -> AttentionPicture | None:
        assert isinstance(model, Decoder)
        length = min(PICTURE_TOKENS, model.spec.context, len(self.corpus.validation))
        ids = self.corpus.validation.ids[:length].astype("int64")
        try:
            with torch.no_grad():
                output = model.eval()(torch.from_numpy(ids)[None], wanted=frozenset({"output", "weights"}))
            layers = [extra["weights"][0].float().numpy() for extra in output.attention if "weights" in extra]
            return AttentionPicture(
                tokens=tuple(self.corpus.tokenizer.decode([int(token)]) for token in ids), layers=tuple(layers)
            )
        except AttentuneError:
            return None


@lru_cache(maxsize=64)
def _costs(described: ModelSpec, batch: int, context: int, device: str) -> Costs:
    """Measured once for every model, with untrained weights, which cost the same."""
    model = build(described, seed=0).to(device).eval()
    cost = training_cost(model, vocab_size=described.vocab_size, batch=batch, context=context, repeats=1)
    return Costs(token_latency(model, context), cost.peak_bytes)


@torch.inference_mode()
def token_latency(model: Decoder, context: int) -> float | None:
    """Median milliseconds that one more token of one row takes after half a context; None where it cannot decode."""
    device = next(model.parameters()).device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    repeats = max(1, min(MEASURED_TOKENS, context // 2 - 1))
    try:
        state = model.start(1)
        model(token.expand(1, max(1, context // 2)), state=state)
        return 1e3 * median_seconds(lambda: model(token, state=state), repeats=repeats, device=device, warmup=0)
    except AttentuneError:
        return None


@torch.no_grad()
def loss_by_position(model: nn.Module, corpus: Corpus, context: int) -> tuple[float, ...]:
    """Mean validation loss in nats per token over each part of the context, from its start on.

    What falls from part to part is what a longer past is worth to this model. Empty for a model with memory, whose
    windows do not begin without a past, and for contexts shorter than the number of parts.
    """
    if getattr(model, "has_memory", False) or context < PARTS:
        return ()
    model.eval()
    device = next(model.parameters()).device
    total, count = torch.zeros(context, dtype=torch.float64), torch.zeros(context, dtype=torch.float64)
    for batch in validation_batches(corpus.validation, context=context, batch=32, limit=POSITION_TOKENS):
        targets = batch.targets.to(device)
        logits = model(batch.ids.to(device)).logits.float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
        total += losses.view_as(targets).double().sum(0).cpu()
        count += (targets != IGNORED).double().sum(0).cpu()
    pieces = zip(total.tensor_split(PARTS), count.tensor_split(PARTS), strict=True)
    return tuple(float(losses.sum() / counts.sum().clamp(min=1)) for losses, counts in pieces)
