"""Pre-training on plain text helps a small labelled set, beyond what seeds make of it."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from attentune.data.records import Record
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import ClipSpec, DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.spec.start import StartSpec
from attentune.tasks.classify import Classify
from attentune.tasks.folder import save_task_model
from attentune.tasks.mlm import Mlm
from attentune.tasks.origin import read_origin, spec_from
from attentune.training.adapting import Beginning
from attentune.training.loop import train
from attentune.training.task import Parts, train_task
from attentune.training.task_source import TaskSource

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
SEEDS = (0, 1, 2)
TOPICS = {name: [f"{name}{number}" for number in range(24)] for name in ("sea", "war", "tax")}
COMMON = [f"common{number}" for number in range(12)]
SPEC = ModelSpec(vocab_size=1, width=32, depth=1, layers=(layer("heads=2, position=rotary"),))
RUN = RunSpec(
    data=DataSpec(tokenizer="word", vocab_size=300),
    context=10,
    batch=24,
    optimizer=OptimizerSpec(learning_rate=5e-3, weight_decay=0.01),
    schedule=ScheduleSpec(warmup=10),
    clip=ClipSpec(limit=1.0),
    evaluate_every=1000,
    checkpoint_every=1000,
    diagnose_every=0,
)


def texts(count: int, seed: int) -> list[Record]:
    """Texts on one of three topics, whose words say nothing by themselves: only their company tells."""
    random = np.random.default_rng(seed)
    records = []
    for number in range(count):
        topic = str(random.choice(list(TOPICS)))
        words = [*random.choice(TOPICS[topic], 6), *random.choice(COMMON, 4)]
        record = {"text": " ".join(random.permutation(words).tolist()), "label": topic}
        records.append(Record(record, f"topics, line {number + 1}"))
    return records


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has read many texts without their labels."""
    folder = tmp_path_factory.mktemp("read") / "model"
    records = texts(1500, 1)
    fitted = Mlm().fit(records, RUN.data, context=RUN.context)
    spec = fitted.complete(SPEC)
    model = fitted.build(spec, seed=0)
    train(model, TaskSource(fitted, records, texts(50, 2)), RUN.replace(steps=250, batch=64))
    return save_task_model(folder, model, spec, fitted)


def accuracies(read: Path, *, pre_trained: bool) -> list[float]:
    """Of a classifier of 18 labelled texts, for each seed; both arms know the same words."""
    parts = Parts(texts(18, 10), texts(40, 11), texts(400, 12))
    run = RUN.replace(steps=60, data=DataSpec(tokenizer_from=str(read)))
    fitted = Classify(word_dropout=0).fit(parts.train, run.data, context=run.context)
    origin = read_origin(read)
    spec = fitted.complete(spec_from(origin, "encoder", context=run.context) if pre_trained else SPEC)
    begin = Beginning(origin, StartSpec(path=str(read)), fitted) if pre_trained else None
    found = []
    for seed in SEEDS:
        source = TaskSource(fitted, parts.train, parts.validation)
        one = train_task(fitted, source, parts, spec, run.replace(seed=seed), device=torch.device("cpu"), prepare=begin)
        assert one.test is not None
        found.append(one.test.values["accuracy"])
    return found


def test_pre_training_helps_beyond_noise(read: Path) -> None:
    scratch, helped = accuracies(read, pre_trained=False), accuracies(read, pre_trained=True)
    gain = statistics.fmean(helped) - statistics.fmean(scratch)
    noise = (statistics.variance(helped) + statistics.variance(scratch)) ** 0.5
    assert gain > 0.1, (scratch, helped)
    assert gain > 2 * noise, (scratch, helped)
    assert min(helped) > max(scratch), (scratch, helped)
