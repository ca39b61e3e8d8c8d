"""Training on suites: batches of examples, early ends, cells that are kept, seeds and learning rates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attentune.errors import SpecError
from attentune.evaluation.suites.copy import Copy
from attentune.evaluation.suites.listops import ListOps
from attentune.evaluation.suites.palindrome import Palindrome
from attentune.evaluation.suites.recall import Recall
from attentune.evaluation.suites.suite import Recipe, draw
from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.spec.run import OptimizerSpec, RunSpec, ScheduleSpec
from attentune.training import suite as suite_module
from attentune.training.examples import ExampleSource
from attentune.training.loop import train
from attentune.training.losses import cross_entropy
from attentune.training.start import start_wide
from attentune.training.suite import Cell, CellResult, Setting, run_suite, train_cell

CPU = torch.device("cpu")
CAUSAL = layer("heads=1, mask=causal")
TINY = Recall(pairs=2, row=8, vocabulary=24)
QUICK = Recipe(width=16, examples=96, test_examples=16, batch=16, epochs=2)


def source(suite: Any, recipe: Recipe = QUICK) -> ExampleSource:
    return ExampleSource(*draw(suite, recipe, seed=0), counts="answers")


def run_of(length: int, **changes: Any) -> RunSpec:
    return RunSpec(**{"context": length, "batch": 16, "steps": 12, "diagnose_every": 0, **changes})


def test_a_pass_shows_every_row_once_in_an_order_of_its_own() -> None:
    data = source(TINY)
    feed = data.feed(run_of(8), has_memory=False, device=CPU)
    known = sorted(row.tobytes() for row in data.train.ids)
    passes = [[feed(step).parts[0].ids for step in range(begin, begin + 6)] for begin in (0, 6)]
    for batches in passes:
        assert sorted(row.numpy().tobytes() for batch in batches for row in batch) == known
    assert not torch.equal(passes[0][0], passes[1][0])
    assert torch.equal(feed(3).parts[0].ids, passes[0][3])  # any step again, whatever came between


def test_the_loss_is_that_of_the_answers_alone_also_in_micro_batches() -> None:
    data = source(ListOps(depth=3, arguments=3, shortest=3, longest=12))
    model = build(Setting.of(TINY, [CAUSAL], QUICK).model.replace(context=11), seed=0)
    whole, parts = (data.feed(run_of(11, accumulate=n), has_memory=False, device=CPU)(0).parts for n in (1, 4))
    (only,) = whole
    assert only.layout is not None and only.scored is not None and len(only.scored) == 16
    logits = model(only.ids, only.layout).logits
    rows = torch.arange(16)
    last = only.layout.query.valid.sum(1) - 1
    expected = torch.nn.functional.cross_entropy(logits[rows, last], only.targets[rows, last])
    assert cross_entropy(logits, only).item() == pytest.approx(expected.item(), rel=1e-6)
    total = sum(cross_entropy(model(part.ids, part.layout).logits, part).item() for part in parts)
    assert total == pytest.approx(expected.item(), rel=1e-5)


def test_the_loop_learns_to_copy_and_measures_it() -> None:
    suite = Copy(symbols=1, alphabet=8, pause=1)
    data = ExampleSource(*_few(suite), counts="answers")
    model = build(Setting.of(suite, [CAUSAL], QUICK).model, seed=0)
    start_wide(model, seed=0)
    quick = {"optimizer": OptimizerSpec(learning_rate=1e-2), "schedule": ScheduleSpec(warmup=0)}
    result = train(model, data, run_of(3, batch=5, steps=120, evaluate_every=60, **quick))
    assert data.score is not None and data.score.accuracy == 1.0
    assert result.final is None
    assert [e.step for e in result.evaluations] == [60, 120]
    assert result.evaluations[-1].loss == pytest.approx(data.score.nats)


def _few(suite: Copy) -> tuple[Any, Any]:
    found = suite.examples(40, np.random.default_rng(0))
    return found, found


def test_training_resumes_on_examples_as_on_text(tmp_path: Path) -> None:
    losses = []
    for folder, steps in ((tmp_path / "through", (12,)), (tmp_path / "cut", (12, 12))):
        for number, _ in enumerate(steps):
            model = build(Setting.of(TINY, [CAUSAL], QUICK).model, seed=0)
            run = run_of(8, checkpoint_every=6)
            result = train(model, source(TINY), run, folder=folder, on_evaluation=None)
            if number == 0 and len(steps) > 1:
                newest = folder / "checkpoint-12"
                for file in newest.iterdir():
                    file.unlink()
                newest.rmdir()
        losses.append(result.losses)
    assert losses[0] == losses[1]


def test_a_wide_start_is_what_pytorch_draws() -> None:
    setting = Setting.of(Recall(), [layer("heads=1, mask=causal, branches=short_conv(3)")], Recipe())
    model = build(setting.model, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start_wide(model, seed=0)
    after = dict(model.named_parameters())
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 192)
    qkv = after["layers.0.attention.heads.0.qkv"]
    assert qkv.abs().max().item() <= 1 / 8
    assert qkv.std().item() == pytest.approx(linear.weight.std().item(), rel=0.05)
    assert after["embedding.table"].std().item() == pytest.approx(1.0, rel=0.05)
    assert after["embedding.places"].std().item() == pytest.approx(1.0, rel=0.05)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if before[name].ndim == 1 or "branches" in name}
    again = build(setting.model, seed=5)
    start_wide(again, seed=0)
    assert torch.equal(dict(again.named_parameters())["head"], after["head"])


def test_a_cell_is_a_model_with_its_curve() -> None:
    cell = Cell(Setting.of(TINY, [CAUSAL], QUICK), 1e-2, seed=1)
    result, again = train_cell(cell, device=CPU), train_cell(cell, device=CPU)
    assert result.epochs == 2 and len(result.accuracies) == 2 and not result.solved
    assert result.score.accuracy == result.accuracies[-1]
    assert result.score == again.score
    other = train_cell(Cell(cell.setting, 1e-2, seed=2), device=CPU)
    assert other.score != result.score


def test_training_ends_when_the_task_is_solved() -> None:
    recipe = QUICK.replace(solved=0.01, epochs=9)
    result = train_cell(
        Cell(Setting.of(Copy(symbols=2, alphabet=4, pause=9, selective=True), [CAUSAL], recipe), 3e-3, 0), device=CPU
    )
    assert result.solved and result.epochs < 9
    assert result.accuracies[-1] >= 0.01


def test_a_diverging_learning_rate_is_a_result() -> None:
    result = train_cell(Cell(Setting.of(TINY, [CAUSAL], QUICK), 1e30, seed=0), device=CPU)
    assert result.failure is not None and "not finite" in result.failure
    assert result.score.accuracy == 0.0 and not result.solved


def test_the_first_seed_chooses_the_learning_rate() -> None:
    setting = Setting.of(TINY, [CAUSAL], QUICK)
    told: list[float] = []
    found = run_suite(
        setting,
        seeds=(4, 5),
        learning_rates=(1e-6, 1e-2),
        progress=lambda share, note: told.append(share),
    )
    tried = [(cell.learning_rate, cell.seed) for cell in found.cells]
    assert tried == [(1e-6, 4), (1e-2, 4), (found.learning_rate, 5)]
    chosen, other = sorted(found.cells[:2], key=lambda cell: cell.learning_rate != found.learning_rate)
    assert (chosen.score.accuracy, -chosen.score.nats) >= (other.score.accuracy, -other.score.nats)
    assert [cell.seed for cell in found.best] == [4, 5]
    accuracies = [cell.score.accuracy for cell in found.best]
    assert found.accuracy == pytest.approx(sum(accuracies) / 2)
    assert found.spread == pytest.approx(abs(accuracies[0] - accuracies[1]) / math.sqrt(2))
    assert told == sorted(told) and told[-1] == pytest.approx(1.0)


def test_finished_cells_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting.of(TINY, [CAUSAL], QUICK)
    first = run_suite(setting, seeds=(0, 1), folder=tmp_path)
    trained: list[Cell] = []

    def counting(cell: Cell, **options: Any) -> CellResult:
        trained.append(cell)
        return train_cell(cell, **options)

    monkeypatch.setattr(suite_module, "train_cell", counting)
    second = run_suite(setting, seeds=(0, 1, 2), folder=tmp_path)
    assert [cell.seed for cell in trained] == [2]
    assert second.cells[:2] == first.cells
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 3
    cells[0].write_text("{half a fi")
    run_suite(setting, seeds=(0, 1, 2), folder=tmp_path)
    assert len(trained) == 2  # the damaged one again
    run_suite(Setting.of(TINY, [CAUSAL], QUICK.replace(weight_decay=0.0)), seeds=(0,), folder=tmp_path)
    assert len(trained) == 3  # another setting is another cell


def test_cells_in_processes_of_their_own_are_the_same_cells(tmp_path: Path) -> None:
    setting = Setting.of(TINY, [CAUSAL], QUICK)
    alone = run_suite(setting, seeds=(0, 1))
    beside = run_suite(setting, seeds=(0, 1), folder=tmp_path, jobs=2)
    assert [cell.score for cell in beside.cells] == [cell.score for cell in alone.cells]
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_the_result_as_plain_data() -> None:
    found = run_suite(Setting.of(TINY, [CAUSAL], QUICK), seeds=(0,)).to_data()
    assert json.loads(json.dumps(found))["suite"] == "recall(pairs=2, row=8, vocabulary=24)"
    assert found["layers"] == ["heads=1, mask=causal"] and found["spread"] is None
    assert found["cells"][0]["score"]["accuracy"] == found["accuracy"]


def test_models_that_would_see_the_answer_are_refused() -> None:
    with pytest.raises(SpecError, match="palindrome shows earlier answers in the row: mask=full would see the answer"):
        Setting.of(Palindrome(), [layer("heads=1")])
    assert Setting.of(Recall(), [layer("heads=1")]).model.layers[0].attention is not None  # no answer is in its rows


def test_a_batch_larger_than_the_examples_is_refused() -> None:
    with pytest.raises(SpecError, match="a batch of 64 rows needs as many examples, got examples=8"):
        Setting.of(TINY, [CAUSAL], Recipe(examples=8))


def test_layers_of_mixers_alone_and_patterns() -> None:
    setting = Setting.of(TINY, [layer("branches=short_conv(3)"), CAUSAL], QUICK)
    assert setting.model.layer(0).attention is None and setting.model.layer(1) == CAUSAL
    assert train_cell(Cell(setting, 3e-3, 0), device=CPU).failure is None


@pytest.mark.slow
def test_two_attention_layers_recall_and_one_does_not() -> None:
    recipe = Recipe(epochs=24, examples=4096, test_examples=200)
    suite = Recall(pairs=4, row=16, vocabulary=32)
    two = train_cell(Cell(Setting.of(suite, [CAUSAL], recipe), 3e-3, 0), device=CPU)
    one = train_cell(Cell(Setting.of(suite, [CAUSAL], recipe.replace(depth=1)), 3e-3, 0), device=CPU)
    assert two.score.accuracy >= 0.99
    assert one.score.accuracy < 0.5
