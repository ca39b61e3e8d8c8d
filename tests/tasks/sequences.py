"""A language that is learnt in seconds, and a translator of it: what the tests of sequence tasks begin with."""

from __future__ import annotations

import functools

import numpy as np

from attentune.data.records import Record
from attentune.mechanisms import layer
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.model import ModelSpec
from attentune.spec.run import ClipSpec, DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.tasks._sequences import FittedSequences, SequenceTask
from attentune.tasks.translate import Translate
from attentune.training.loop import train
from attentune.training.task_source import TaskSource

WORDS = (
    "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    "one two three four five six seven eight nine ten eleven twelve",
)
DATA = DataSpec(tokenizer="word", vocab_size=300)
RUN = RunSpec(
    context=12,
    batch=40,
    steps=240,
    optimizer=OptimizerSpec(learning_rate=5e-3, weight_decay=0.0, beta2=0.98),
    schedule=ScheduleSpec(warmup=10),
    clip=ClipSpec(limit=1.0),
    evaluate_every=240,
    checkpoint_every=240,
    diagnose_every=0,
)


def numbers(count: int, *, seed: int = 0, most: int = 4) -> list[Record]:
    """German numbers, and the same in English."""
    random = np.random.default_rng(seed)
    german, english = (side.split() for side in WORDS)
    made = []
    for place in range(count):
        drawn = random.integers(len(german), size=random.integers(1, most + 1))
        values = {"de": " ".join(german[n] for n in drawn), "en": " ".join(english[n] for n in drawn)}
        made.append(Record(values, f"numbers.tsv, line {place + 1}"))
    return made


def small(layers: str = "heads=2, position=rotary, mask=causal", **changes: object) -> ModelSpec:
    sizes = {"vocab_size": 10, "width": 32, "depth": 1}
    return ModelSpec(layers=(layer(layers),), **{**sizes, **changes})  # type: ignore[arg-type]


def taught(task: SequenceTask, records: list[Record], run: RunSpec = RUN) -> tuple[FittedSequences, EncoderDecoder]:
    """A model of `task` after a short training on `records`."""
    fitted = task.fit(records, DATA, context=run.context)
    model = fitted.build(fitted.complete(small()), seed=0)
    train(model, TaskSource(fitted, records, records[:20]), run)
    return fitted, model


@functools.cache
def translator() -> tuple[FittedSequences, EncoderDecoder]:
    return taught(Translate(source="de", target="en"), numbers(600))
