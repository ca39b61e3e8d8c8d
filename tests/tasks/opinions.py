"""Opinions that a generator writes: one word of each tells its label; and how a small classifier learns them."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from attentune.data.records import Record
from attentune.spec.run import DataSpec, OptimizerSpec, RunSpec, ScheduleSpec

LOWERED = DataSpec(tokenizer="word", lowercase=True)
RUN = RunSpec(
    data=LOWERED,
    context=16,
    batch=8,
    steps=90,
    evaluate_every=30,
    optimizer=OptimizerSpec(learning_rate=3e-3),
    schedule=ScheduleSpec(warmup=10),
    diagnose_every=0,
)
WORDS = {"good": ["great", "fine", "lovely", "superb"], "bad": ["awful", "poor", "dire", "dull"]}
FILL = ["the", "film", "was", "a", "plot", "actor", "very", "so", "quite", "with", "and", "of", "this", "story"]


def opinions(count: int, seed: int, *, share: float = 0.6) -> list[Record]:
    """`count` records with the columns `text` and `label`, a share of them good."""
    drawn = random.Random(seed)
    records = []
    for number in range(count):
        label = "good" if drawn.random() < share else "bad"
        words = [*drawn.choices(FILL, k=drawn.randint(2, 8)), drawn.choice(WORDS[label]), *drawn.choices(FILL, k=2)]
        records.append(Record({"text": " ".join(words), "label": label}, f"opinions, line {number + 1}"))
    return records


def write(path: Path, records: list[Record]) -> Path:
    """The records as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, list(records[0].values))
        rows.writeheader()
        rows.writerows(dict(record.values) for record in records)
    return path
