"""Models that answer together: means of probabilities, a loss for each member, folders, and starting from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attentune.data.batches import IGNORED, MicroBatch
from attentune.data.records import Record
from attentune.errors import SpecError
from attentune.mechanisms import layer
from attentune.models.checkpoint import weights_of
from attentune.spec.model import ModelSpec
from attentune.spec.start import StartSpec
from attentune.tasks._ensemble import Ensemble, mean_answer
from attentune.tasks.classify import Classify
from attentune.tasks.folder import load, save_task_model
from attentune.tasks.origin import read_origin, stacks_of
from attentune.tasks.registry import read_task
from attentune.tasks.tag import Tag
from attentune.tasks.task import Task
from attentune.training.adapting import Beginning
from attentune.training.losses import cross_entropy, disagreement
from attentune.training.task import Parts, TaskRun, train_task
from attentune.training.task_source import TaskSource, mean_loss
from tasks.opinions import LOWERED, opinions
from tasks.opinions import RUN as OPINIONS

pytest.importorskip("sklearn", reason="metrics of tasks need scikit-learn")
RUN = OPINIONS.replace(steps=60)
SMALL = ModelSpec(vocab_size=1, width=16, depth=1, context=16, layers=(layer("heads=2, mask=full"),))


def built(task: Task, records: list[Record]) -> tuple[Any, Ensemble]:
    known = task.fit(records, LOWERED, context=16)
    model = known.build(known.complete(SMALL), seed=0)
    assert isinstance(model, Ensemble)
    return known, model


def trained(task: Classify, parts: Parts) -> tuple[Any, TaskRun]:
    known = task.fit(parts.train, LOWERED, context=RUN.context)
    source = TaskSource(known, parts.train, parts.validation)
    return known, train_task(known, source, parts, known.complete(SMALL), RUN, device=torch.device("cpu"))


def test_the_answer_is_the_mean_of_the_probabilities() -> None:
    logits = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(mean_answer(logits, several=False).softmax(-1), logits.softmax(-1).mean(0))
    torch.testing.assert_close(mean_answer(logits, several=True).sigmoid(), logits.sigmoid().mean(0))
    sure = torch.tensor([[[200.0, -200.0]], [[200.0, -200.0]]])
    for several in (True, False):
        assert torch.isfinite(mean_answer(sure, several=several)).all()


@pytest.mark.parametrize("several", [False, True])
def test_each_member_is_trained_by_its_own_loss(several: bool) -> None:
    records = opinions(12, 1)
    known, model = built(Classify(members=3, word_dropout=0, dropout=0, several=several), records)
    part = known.batch([known.example(one) for one in records], torch.device("cpu"))
    model.train()
    together = model(part.ids, part.layout)
    assert together.logits.shape == (3, len(records), 1, 2)
    loss = cross_entropy(together.logits, part, 0.1)
    loss.backward()
    apart = []
    for member in model.members:
        own = cross_entropy(member(part.ids, part.layout).logits, part, 0.1)
        found = torch.autograd.grad(own / 3, member.output.weight)[0]
        torch.testing.assert_close(member.output.weight.grad, found)
        apart.append(own.detach())
    assert len({round(float(one), 6) for one in apart}) == 3  # they begin with different weights
    torch.testing.assert_close(loss.detach(), torch.stack(apart).mean())
    model.eval()
    answer = model(part.ids, part.layout).logits
    assert answer.shape == (len(records), 1, 2)
    given = torch.stack([member(part.ids, part.layout).logits for member in model.members])
    shares = (Tensor.sigmoid if several else lambda x: x.softmax(-1))(given).mean(0)
    torch.testing.assert_close((answer.sigmoid() if several else answer.softmax(-1)), shares)


def test_scored_places_and_disagreement_are_those_of_every_member() -> None:
    targets = torch.randint(0, 5, (2, 4))
    targets[0, 1] = targets[1, 2] = IGNORED
    first, second = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    plain = MicroBatch(targets, targets, None, 1.0)
    named = MicroBatch(targets, targets, None, 1.0, scored=(targets.flatten() != IGNORED).nonzero()[:, 0])
    for part in (plain, named):
        expected = torch.stack([cross_entropy(one, plain) for one in first]).mean()
        torch.testing.assert_close(cross_entropy(first, part), expected)
        apart = [disagreement(one, other, plain) for one, other in zip(first, second, strict=True)]
        torch.testing.assert_close(disagreement(first, second, part), torch.stack(apart).mean())


def test_an_ensemble_learns_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    parts = Parts(opinions(240, 1), opinions(40, 2), opinions(60, 3))
    known, run = trained(Classify(members=3), parts)
    assert run.test is not None and run.test.values["accuracy"] > 0.95
    examples = [known.example(one) for one in parts.validation]
    assert mean_loss(run.model, known, examples, tokens=64) == pytest.approx(run.best.loss, rel=1e-4)
    save_task_model(tmp_path / "model", run.model, known.complete(SMALL), known)
    model = load(tmp_path / "model")
    assert isinstance(model.model, Ensemble) and len(model.model.members) == 3
    assert model.predict(list(parts.test)) == known.predict(run.model, parts.test)


def test_tags_of_an_ensemble() -> None:
    records = [Record({"tokens": ["in", "Rome"], "tags": ["O", "B-place"]}, f"line {number}") for number in range(6)]
    known, model = built(Tag(members=2, word_dropout=0, dropout=0), records)
    part = known.batch([known.example(one) for one in records], torch.device("cpu"))
    model.train()
    logits = model(part.ids, part.layout).logits
    assert logits.shape[0] == 2
    expected = torch.stack([cross_entropy(one, part) for one in logits]).mean()
    torch.testing.assert_close(cross_entropy(logits, part), expected)
    (answer,) = known.predict(model, records[:1])
    assert len(answer.value) == 2


def test_a_start_fills_all_members_and_a_start_from_an_ensemble_takes_the_first(tmp_path: Path) -> None:
    records = opinions(40, 1)
    known, model = built(Classify(members=2), records)
    save_task_model(tmp_path / "pair", model, known.complete(SMALL), known)
    origin = read_origin(tmp_path / "pair")
    first = weights_of(model.members[0])
    alone = Classify().fit(records, LOWERED, context=16)
    single = alone.build(alone.complete(SMALL), seed=5)
    Beginning(origin, StartSpec(path=str(tmp_path / "pair")), alone)(single)
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights_of(single).items())

    again, other = built(Classify(members=2), records)
    Beginning(origin, StartSpec(path=str(tmp_path / "pair"), freeze="embedding"), again)(other)
    for name, stack in stacks_of(other).items():
        assert name.startswith("members.")
        for own, tensor in weights_of(stack).items():
            assert torch.equal(tensor, first[f"trunk.{own}"])
    held = {name for name, parameter in other.named_parameters() if not parameter.requires_grad}
    assert held == {"members.0.trunk.embedding.table", "members.1.trunk.embedding.table"}
    assert not torch.equal(_output(other, 0), _output(other, 1))


def _output(model: Ensemble, number: int) -> Tensor:
    output = model.members[number].output
    assert isinstance(output, nn.Module) and isinstance(output.weight, Tensor)
    return output.weight


def test_no_members_are_refused() -> None:
    with pytest.raises(SpecError, match="members"):
        read_task("classify(members=0)")
