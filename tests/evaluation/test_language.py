"""The fixed protocol: every token once, weighted alike, whatever the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attentune.data.corpus import Tokens, tokenize
from attentune.data.tokenizers import train_tokenizer
from attentune.errors import DataError
from attentune.evaluation.language import evaluate_language, language_loss


@dataclass
class Output:
    logits: Tensor
    state: Any = None


class CountingModel(nn.Module):
    """Its loss for a target depends on the target and on how many tokens it sees before it, so that both can be told.

    The logit of token v after n visible tokens is v * n / 100.
    """

    def __init__(self, vocabulary: int, *, memory: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.vocabulary = vocabulary
        self.has_memory = memory
        self.seen: list[tuple[int, ...]] = []

    def forward(self, ids: Tensor, layout: Any = None, *, state: int | None = None) -> Output:
        assert not self.training and not torch.is_grad_enabled()
        self.seen.append(tuple(ids.shape))
        before = state or 0
        visible = before + torch.arange(1, ids.shape[1] + 1).expand(ids.shape)
        if layout is not None:
            visible = layout.query.position + 1
        logits = visible[..., None] * torch.arange(self.vocabulary) / 100 * self.weight
        return Output(logits.float(), before + ids.shape[1] if self.has_memory else None)


def nats(target: int, visible: int, vocabulary: int) -> float:
    scores = [v * visible / 100 for v in range(vocabulary)]
    return math.log(sum(map(math.exp, scores))) - scores[target]


TEXT = "the quick brown fox jumps over the lazy dog"  # 43 letters: 42 predictions
TOKENIZER = train_tokenizer("char", [TEXT])
V = TOKENIZER.vocab_size
TOKENS = tokenize([TEXT], TOKENIZER)
IDS = TOKENS.ids.tolist()


def expected(visible: list[int]) -> float:
    return sum(nats(IDS[i + 1], n, V) for i, n in enumerate(visible))


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
def test_consecutive_windows_score_every_token_once_in_any_batch(batch: int) -> None:
    score = evaluate_language(CountingModel(V), TOKENS, TOKENIZER, context=8, batch=batch)
    total = expected([i % 8 + 1 for i in range(42)])
    assert score.tokens == 42
    assert score.nats_per_token == pytest.approx(total / 42, rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(total / 42), rel=1e-6)
    assert score.bits_per_character == score.bits_per_byte == pytest.approx(total / 42 / math.log(2), rel=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 32])
@pytest.mark.parametrize(("stride", "context"), [(3, 8), (1, 8), (5, 10), (2, 42), (3, 50)])
def test_overlapping_windows_give_every_token_its_context(stride: int, context: int, batch: int) -> None:
    visible = [i + 1 if i < context else context - stride + (i - context) % stride + 1 for i in range(42)]
    found = language_loss(CountingModel(V), TOKENS, context=context, stride=stride, batch=batch)
    assert found == pytest.approx(expected(visible) / 42, rel=1e-6)


def test_memory_reads_eight_streams_in_order_and_then_the_rest() -> None:
    model = CountingModel(V, memory=True)
    found = language_loss(model, TOKENS, context=2)
    visible = [i % 4 + 1 for i in range(32)] + list(range(1, 11))  # 42 = 8 streams of 4 tokens + 10
    assert found == pytest.approx(expected(visible) / 42, rel=1e-6)
    assert model.seen == [(8, 2), (8, 2)] + [(1, 2)] * 5


def test_bytes_and_characters_are_those_of_the_text() -> None:
    text = "żółw idzie ścieżką"
    tokenizer = train_tokenizer("byte", [text])
    tokens = tokenize([text], tokenizer)
    score = evaluate_language(CountingModel(tokenizer.vocab_size), tokens, tokenizer, context=5)
    assert score.tokens == len(text.encode()) - 1
    total = score.nats_per_token * score.tokens / math.log(2)
    assert score.bits_per_byte == pytest.approx(total / (len(text.encode()) - 1))
    assert score.bits_per_character == pytest.approx(total / (len(text) - 1), rel=0.06)  # half of "ż" is unscored


def test_isolated_documents_start_anew_and_their_first_tokens_are_not_predicted() -> None:
    tokens = Tokens(ids=TOKENS.ids, starts=np.array([0, 10, 13]), characters=43, bytes=43)
    score = evaluate_language(CountingModel(V), tokens, TOKENIZER, context=8, isolate_documents=True)
    assert score.tokens == 40
    total = 0.0
    for i in range(42):
        window, start = i - i % 8, max(s for s in (0, 10, 13) if s <= i)
        if i + 1 not in (10, 13):
            total += nats(IDS[i + 1], i - max(window, start) + 1, V)
    assert score.nats_per_token == pytest.approx(total / 40, rel=1e-6)


def test_a_limit_takes_whole_windows_and_the_training_mode_comes_back() -> None:
    model = CountingModel(V).train()
    assert evaluate_language(model, TOKENS, TOKENIZER, context=8, limit=17).tokens == 16
    assert model.training and torch.is_grad_enabled()
    overlapping = evaluate_language(model, TOKENS, TOKENIZER, context=8, stride=4, limit=17)
    assert overlapping.tokens == 17


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 0}, "stride must be between 1 and context=8, got 0"),
        ({"stride": 9}, "stride must be between 1 and context=8, got 9"),
        ({"stride": 4, "isolate_documents": True}, "does not go with isolated documents"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        language_loss(CountingModel(V), TOKENS, context=8, **changes)


def test_too_short_a_text() -> None:
    with pytest.raises(DataError, match="at least 2 tokens, got 1"):
        language_loss(CountingModel(V), tokenize(["t"], TOKENIZER), context=8)
