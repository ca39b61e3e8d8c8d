"""Batches: what is drawn, that it depends on nothing else, and that validation scores each token once."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attentune.data.batches import IGNORED, PADDING_DOCUMENT, training_batch, validation_batches
from attentune.data.corpus import Tokens
from attentune.errors import DataError


def stream(length: int, starts: tuple[int, ...] = (0,)) -> Tokens:
    """Tokens whose id is their position, so that each shows where it came from."""
    return Tokens(
        ids=np.arange(length, dtype=np.int32), starts=np.array(starts, dtype=np.int64), characters=length, bytes=length
    )


def test_rows_are_contiguous_and_targets_follow() -> None:
    batch = training_batch(stream(1000), seed=1, step=2, batch=5, context=7)
    assert batch.ids.shape == batch.targets.shape == (5, 7)
    assert batch.ids.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.targets, batch.ids + 1)
    assert torch.equal(batch.ids[:, 1:], batch.ids[:, :-1] + 1)
    assert batch.documents is None


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    def drawn(seed: int, step: int) -> list[int]:
        return training_batch(stream(100_000), seed=seed, step=step, batch=8, context=4).ids[:, 0].tolist()

    np.random.seed(1)
    torch.manual_seed(1)
    first = drawn(3, 5)
    np.random.seed(2)
    torch.manual_seed(2)
    drawn(3, 4)
    assert drawn(3, 5) == first
    assert len({tuple(drawn(seed, step)) for seed in range(4) for step in range(4)}) == 16
    assert drawn(2**70 + 3, 5) == first


def test_the_places_drawn_stay_the_same_from_version_to_version() -> None:
    batch = training_batch(stream(1_003_854), seed=0, step=0, batch=4, context=64)
    assert batch.ids[:, 0].tolist() == [291089, 911558, 910239, 28426]


def test_every_place_is_drawn_and_about_equally_often() -> None:
    starts = torch.cat(
        [training_batch(stream(13), seed=0, step=step, batch=100, context=3).ids[:, 0] for step in range(100)]
    )
    counts = torch.bincount(starts, minlength=10)
    assert len(counts) == 10, "the last place is the one whose target is the last token"
    assert counts.min() > 880
    assert counts.max() < 1120


def test_isolated_documents() -> None:
    tokens = stream(12, starts=(0, 4, 5, 9))
    document_of = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3])
    for step in range(20):
        batch = training_batch(tokens, seed=0, step=step, batch=3, context=6, isolate_documents=True)
        plain = training_batch(tokens, seed=0, step=step, batch=3, context=6)
        assert torch.equal(batch.ids, plain.ids)
        assert batch.documents is not None
        assert torch.equal(batch.documents, document_of[batch.ids])
        crossing = (plain.targets[..., None] == torch.tensor([4, 5, 9])).any(-1)
        assert torch.equal(batch.targets, plain.targets.masked_fill(crossing, IGNORED))


def test_shortest_stream() -> None:
    assert training_batch(stream(5), seed=0, step=0, batch=2, context=4).ids.tolist() == [[0, 1, 2, 3]] * 2
    with pytest.raises(DataError, match="a row of context 5 needs 6 tokens, the text has 5"):
        training_batch(stream(5), seed=0, step=0, batch=2, context=5)


@settings(max_examples=80, deadline=None)
@given(length=st.integers(2, 90), context=st.integers(1, 20), batch=st.integers(1, 5), isolated=st.booleans())
def test_every_token_but_the_first_is_predicted_once(length: int, context: int, batch: int, isolated: bool) -> None:
    starts = (0, length // 2) if length // 2 else (0,)
    batches = list(validation_batches(stream(length, starts), context=context, batch=batch, isolate_documents=isolated))
    targets = torch.cat([b.targets.flatten() for b in batches])
    ids = torch.cat([b.ids.flatten() for b in batches])
    scored = targets != IGNORED
    first_tokens = starts if isolated else (0,)
    assert targets[scored].tolist() == [token for token in range(length) if token not in first_tokens]
    assert torch.equal(ids[scored], targets[scored] - 1)
    assert all(b.ids.shape[1] == context and 1 <= b.ids.shape[0] <= batch for b in batches)


def test_the_last_window_is_padded() -> None:
    (batch,) = validation_batches(stream(8, starts=(0, 5)), context=5, batch=4, isolate_documents=True)
    assert batch.ids.tolist() == [[0, 1, 2, 3, 4], [5, 6, 0, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 3, 4, IGNORED], [6, 7, IGNORED, IGNORED, IGNORED]]
    assert batch.documents is not None
    pad = PADDING_DOCUMENT
    assert batch.documents.tolist() == [[0, 0, 0, 0, 0], [1, 1, pad, pad, pad]]


def test_limit_takes_evenly_spaced_windows() -> None:
    def first_tokens(limit: int | None) -> list[int]:
        return [
            row
            for b in validation_batches(stream(101), context=10, batch=3, limit=limit)
            for row in b.ids[:, 0].tolist()
        ]

    assert first_tokens(None) == first_tokens(1000) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert first_tokens(50) == [0, 20, 40, 60, 80]
    assert first_tokens(39) == [0, 30, 60]
    assert first_tokens(1) == [0]


def test_nothing_to_predict() -> None:
    with pytest.raises(DataError, match="nothing can be predicted in a text of 1 tokens"):
        next(validation_batches(stream(1), context=4, batch=2))


def test_a_training_batch_costs_next_to_nothing() -> None:
    tokens = stream(1_000_000)
    best = float("inf")
    for step in range(200):
        begin = time.perf_counter()
        training_batch(tokens, seed=0, step=step, batch=12, context=64)
        best = min(best, time.perf_counter() - begin)
    assert best < 200e-6
