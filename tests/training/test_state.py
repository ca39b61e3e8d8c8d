"""Going on with another run: the refusal names what people type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attentune.errors import TrainingError
from attentune.training.state import require_same

RUN: dict[str, Any] = {"evaluate_every": 9, "steps": 18, "data": {"path": "a.csv"}}


def identity(hash_: str, vocabulary: int, **run: Any) -> dict[str, Any]:
    return {"run": {**RUN, **run}, "model": {"vocab_size": vocabulary}, "data": {"fingerprint": hash_}}


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (identity("b", 502, steps=27, evaluate_every=8), "was trained with steps=18, now 27; use another"),
        (identity("b", 557), "was trained with other data, or with other options of the task; use another"),
        (identity("b", 502, evaluate_every=8), "was trained with other data, or with other options of the task;"),
        (identity("a", 557, evaluate_every=8), "was trained with evaluate_every=9, now 8; use another"),
        (identity("b", 557, data={"path": "b.csv"}), "was trained with data.path='a.csv', now 'b.csv'; use another"),
    ],
)
def test_what_differs_is_named_as_it_is_typed(now: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        require_same(identity("a", 557), now, Path("runs/x"))
    assert says in str(caught.value)


def test_the_same_run_goes_on() -> None:
    require_same(identity("a", 557), identity("a", 557), Path("runs/x"))
