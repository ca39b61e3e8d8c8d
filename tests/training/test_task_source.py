"""Training on the records of a task: passes, what is measured, the weights that are kept and their means."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import DataError, TrainingError
from attentune.mechanisms import layer
from attentune.spec.model import ModelSpec
from attentune.spec.run import DataSpec, OptimizerSpec, RunSpec, ScheduleSpec
from attentune.tasks.classify import Classify
from attentune.training.loop import train
from attentune.training.task import Parts
from attentune.training.task_source import TaskSource
from tasks.opinions import opinions
from training.standin import TinyLanguageModel, small_corpus, small_run

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
RUN = RunSpec(
    data=DataSpec(tokenizer="word"),
    context=16,
    batch=4,
    steps=8,
    evaluate_every=2,
    optimizer=OptimizerSpec(learning_rate=1e-2),
    schedule=ScheduleSpec(name="constant", warmup=0),
    diagnose_every=0,
)


def made() -> tuple[TaskSource, torch.nn.Module]:
    records = opinions(60, 1)
    known = Classify(word_dropout=0).fit(records, RUN.data, context=16)
    spec = ModelSpec(vocab_size=1, width=8, depth=1, context=16, layers=(layer("heads=2, mask=full"),))
    return TaskSource(known, records, opinions(20, 2)), known.build(known.complete(spec), seed=0)


def test_epochs_decide_the_steps() -> None:
    source, _ = made()
    each = source.buckets(RUN).per_pass
    run = source.for_epochs(RUN.replace(evaluate_every=250), 2.5)
    assert (run.steps, run.evaluate_every, run.checkpoint_every) == (round(2.5 * each), each, each)
    assert source.for_epochs(RUN, 1).evaluate_every == 2  # as asked for


def test_a_pass_sees_every_record_once_in_full_batches() -> None:
    source, _ = made()
    feed = source.feed(RUN, has_memory=False, device=torch.device("cpu"))
    each = source.buckets(RUN).per_pass
    parts = [feed(step).parts[0] for step in range(each)]
    assert sum(len(part.ids) for part in parts) == 60
    assert all(part.ids.numel() <= RUN.tokens_per_step for part in parts)
    assert all(part.share == 1.0 for part in parts)


def test_micro_batches_share_a_step() -> None:
    source, _ = made()
    whole = source.feed(RUN, has_memory=False, device=torch.device("cpu"))(0).parts[0]
    halves = source.feed(RUN.replace(accumulate=2), has_memory=False, device=torch.device("cpu"))(0).parts
    assert sum(len(part.ids) for part in halves) == len(whole.ids)
    assert sum(part.share for part in halves) == pytest.approx(1.0)


def test_the_mean_of_the_last_weights_is_measured_and_training_goes_on_from_its_own() -> None:
    alone, model = made()
    seen: list[dict[str, torch.Tensor]] = []

    def look(step: int, loss: float) -> None:
        seen.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})

    train(model, alone, RUN, on_evaluation=look)
    averaged, other = made()
    train(other, averaged, RUN.replace(average=3))
    for name, tensor in other.named_parameters():
        torch.testing.assert_close(tensor, seen[-1][name], rtol=0, atol=0)
    assert [one.step for one in averaged.curve] == [2, 4, 6, 8]
    assert averaged.curve[0] == alone.curve[0]
    assert averaged.curve[-1].loss != alone.curve[-1].loss
    best = averaged.take_best(other)
    assert best is not None
    last = best.step // 2
    kept = seen[max(0, last - 3) : last]
    for name, tensor in other.named_parameters():
        torch.testing.assert_close(tensor.detach(), torch.stack([one[name] for one in kept]).mean(0))


def test_the_best_weights_are_those_of_the_best_measurement() -> None:
    source, model = made()
    seen: dict[int, torch.Tensor] = {}
    train(
        model, source, RUN, on_evaluation=lambda step, loss: seen.update({step: model.output.weight.detach().clone()})
    )
    best = source.take_best(model)
    assert best == max(source.curve, key=lambda one: (one.value, -one.loss))
    assert torch.equal(model.output.weight, seen[best.step])


def test_a_source_begins_anew_with_each_run() -> None:
    source, model = made()
    train(model, source, RUN.replace(steps=4))
    train(made()[1], source, RUN.replace(steps=2))
    assert [one.step for one in source.curve] == [2]


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(TrainingError, match="average=2 is for tasks"):
        train(TinyLanguageModel(), small_corpus(), small_run(average=2))
    with pytest.raises(DataError, match="no records to train on"):
        Parts([], opinions(2, 1))
    with pytest.raises(DataError, match="no records to choose the best by"):
        Parts(opinions(2, 1), [])
