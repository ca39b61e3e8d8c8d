"""Records with answers, judged by the score of their task; see `attentune.tasks`."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from attentune.data.batches import IGNORED
from attentune.data.records import Record
from attentune.data.shape import TableShape
from attentune.errors import SpecError
from attentune.evaluation.cost import median_seconds, training_peak_bytes
from attentune.mechanisms import layer
from attentune.search.folds import Groups, fold_of_each
from attentune.search.models import TaskModels
from attentune.search.pictures import AttentionPicture
from attentune.search.resampling import losses_left_out
from attentune.search.result import DataResult, Measure, Sample
from attentune.search.space import StudySpec
from attentune.search.subject import Costs, Judged, Probe, Seconds, Subject
from attentune.search.task_report import attention_over, predictions_text, write_task_report
from attentune.spec.model import ModelSpec
from attentune.spec.run import RunSpec
from attentune.tasks.folder import save_task_model
from attentune.tasks.registry import read_task
from attentune.tasks.task import Fitted, Scores
from attentune.training.loop import train
from attentune.training.losses import cross_entropy
from attentune.training.result import TrainResult
from attentune.training.task import Counts, Parts, read_parts
from attentune.training.task_source import TaskSource

SEARCH_EVALUATIONS = 3  # of a trial, each on everything that it is judged by: at both rungs and at the end
MOST_PASSES = 30.0  # over the records
TIMED_RECORDS = 64
PROBED = 3  # records
OF_TEXT = ("column", "isolate_documents")  # of DataSpec: a task names its columns, and its rows are apart anyway


def open_task(spec: StudySpec, *, progress: Callable[[str, int, int], None]) -> TaskSubject:
    """The records of a study of a task, with its tokenizers and labels fitted.

    Raises:
        SpecError: the task is unknown, or its options are wrong.
        DataError: the records cannot be used, with file and line; or there are more folds than they can be parted into.
        MissingExtraError: what the task is scored by is not installed.
    """
    task = read_task(spec.task)
    for name in OF_TEXT:
        if getattr(spec.data, name):
            raise SpecError(f"data.{name} is for language models: it does nothing for a task")
    parts, counts = read_parts(
        task,
        spec.data,
        validation_path=spec.validation_path,
        test_path=spec.test_path,
        drop_duplicates=spec.drop_duplicates,
        folds=spec.folds > 0,
        progress=lambda done, total, *_: progress("reading", done, total),
    )
    if spec.folds:
        Groups.of(task, [*parts.train, *parts.validation]).check(spec.folds)
    progress("preparing examples", 0, 1)
    fitted = task.fit(parts.train, spec.data, context=spec.context)
    fitted.widen(parts.test)
    for record in parts.test:
        fitted.examples(record)  # refuses unknown labels now, and not after hours
    source = TaskSource(fitted, parts.train, parts.validation)
    progress("preparing examples", 1, 1)
    return TaskSubject(fitted, parts, source, _measure(fitted, source, parts, spec.folds), counts, _passes(spec))


def _passes(spec: StudySpec) -> float:
    return MOST_PASSES if spec.epochs is None else spec.epochs


def _telling(fitted: Fitted, records: Sequence[Record], most: int) -> list[Record]:
    """The first records that a model has anything to say of: a text of one token has none to be hidden."""
    return list(itertools.islice((one for one in records if fitted.examples(one)), most))


def _measure(fitted: Fitted, source: TaskSource, parts: Parts, folds: int) -> Measure:
    """What the task calls its main figure, which an untrained model of one layer has as well.

    Where that counts hidden tokens, each is an answer of its own; else a record is one. Folds judge by all of them.
    """
    plain = layer("heads=1, mask=causal" if fitted.task.stack == "encoder-decoder" else "heads=1, mask=full")
    model = fitted.build(fitted.complete(ModelSpec(vocab_size=1, width=8, depth=1, layers=(plain,))), seed=0)
    few = _telling(fitted, parts.validation, 2)
    scores = fitted.score(fitted.predict(model, few), few)
    name = scores.main
    answers = len(parts.validation) + (len(parts.train) if folds else 0)
    if "tokens" in scores.details:
        judged = [*source.validation, *(source.train if folds else ())]
        answers = sum(int((one.targets != IGNORED).sum()) for one in judged)
    by_score = fitted.task.chosen_by == "score"
    on_the_way = f"validation {name}, the best so far" if by_score else "validation loss, nats, the least so far"
    return Measure(
        name=name,
        unit="",
        higher_is_better=True,
        on_the_way=on_the_way,
        rises=by_score,
        latency="latency of one record",
        answers=max(1, answers),
        best=scores.best,
    )


@final
class TaskSubject(Subject):
    """The records of a task, judged by its main figure. `size` counts records.

    The weights that did best on the validation records in the course of a run are what it is judged by. Where the task
    is chosen by its loss, the pruning of trials goes by the loss as well, and texts are searched for at the end.
    """

    search_evaluations = SEARCH_EVALUATIONS

    def __init__(
        self,
        fitted: Fitted,
        parts: Parts,
        source: TaskSource,
        measure: Measure,
        counts: Counts,
        passes: float,
    ) -> None:
        self.fitted, self.parts, self.measure, self.counts, self.passes = fitted, parts, measure, counts, passes
        self.models = TaskModels(fitted)
        self._source = source
        self._costs: dict[ModelSpec, Costs] = {}
        self.size, self.whole = len(parts.validation), len(parts.train) + len(parts.validation)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint.encode())
        for record in self.parts.test:
            digest.update(json.dumps(dict(record.values), sort_keys=True, default=str).encode())
        return digest.hexdigest()

    @property
    def source(self) -> TaskSource:
        return self._source

    def on_the_way(self, step: int, loss: float) -> float:
        del loss  # a value in which better and worse may stand in another order than in the score
        seen = [one for one in self._source.curve if one.step <= step and math.isfinite(one.loss)]
        return -max((one.value for one in seen), default=math.nan)

    def take(self, model: nn.Module, result: TrainResult) -> None:
        del result
        self._source.take_best(model)

    def judge(self, model: nn.Module, result: TrainResult, *, final: bool = False) -> Judged:
        del result
        best = self._source.take_best(model)
        if best is None:
            return Judged(math.nan)
        figures, value = dict(best.scores), best.value
        by_loss, held = self.fitted.task.chosen_by == "loss", self.parts.validation
        left_out: tuple[float, ...] = ()
        if by_loss or final:
            predictions = self.fitted.predict(model, held)
            if by_loss:
                scores = self.fitted.score(predictions, held)
                figures, value = dict(scores.values), scores.value
            if final:
                groups = Groups.of(self.fitted.task, held).places
                left_out = losses_left_out(self.fitted.score, predictions, held, groups=groups, slow=by_loss)
        figures["loss"] = best.loss
        if self.parts.test:
            figures |= {f"test {name}": one for name, one in self._score(model, self.parts.test).values.items()}
        known = {name: one for name, one in figures.items() if math.isfinite(one)}
        return Judged(-value, known, left_out=left_out)

    def _score(self, model: nn.Module, records: Sequence[Record]) -> Scores:
        return self.fitted.score(self.fitted.predict(model, records), records)

    def costs(self, spec: ModelSpec, run: RunSpec, device: torch.device) -> Costs:
        """Of the step with the most tokens, and of the forward pass of one record of middling length."""
        if spec not in self._costs:
            model = self.models.build(spec, seed=0).to(device)
            examples = self._source.train
            rows = max(self._source.buckets(run).passed(0), key=lambda each: sum(examples[row].length for row in each))
            part = self.fitted.batch([examples[row] for row in rows[: -(-len(rows) // run.accumulate)]], device)

            def loss(trained: nn.Module) -> Tensor:
                output = trained(part.ids, part.layout, **part.inputs)
                total = cross_entropy(output.logits, part)
                for auxiliary in output.losses.values():
                    total = total + auxiliary
                return total

            peak = training_peak_bytes(model, loss)
            middle = sorted(examples, key=lambda one: one.length)[len(examples) // 2]
            one = self.fitted.batch([middle], device)
            model.eval()
            with torch.inference_mode():
                seconds = median_seconds(
                    lambda: model(one.ids, one.layout, **one.inputs), repeats=5, device=device, warmup=2
                )
            self._costs[spec] = Costs(1e3 * seconds, peak)
        return self._costs[spec]

    def timed(self, model: nn.Module, run: RunSpec) -> Seconds:
        small = self.searched(TIMED_RECORDS)
        train(model, small.source, run.replace(steps=5))
        found = train(model, small.source, run)
        begun = time.perf_counter()
        small.source.evaluate(model, run, last=True)
        evaluated = time.perf_counter()
        if self.fitted.task.chosen_by == "loss":
            small._score(model, small.parts.validation)
        judged = time.perf_counter()
        step = run.tokens_per_step / found.tokens_per_second
        return Seconds(step, (evaluated - begun) / small.size, (judged - evaluated) / small.size)

    def searched(self, size: int) -> TaskSubject:
        chosen = np.sort(_drawn(self.size)[:size])
        records = [self.parts.validation[place] for place in chosen]
        source = self._source.judged_by(records)
        found = TaskSubject(
            self.fitted, Parts(self.parts.train, records), source, self.measure, self.counts, self.passes
        )
        found._costs = self._costs
        return found

    def search_size(self, tokens: int) -> int:
        lengths = np.array([one.length for one in self._source.validation])
        if len(lengths) != self.size:  # some records make several rows, or none
            return max(1, min(self.size, tokens * self.size // int(lengths.sum())))
        lengths = lengths[_drawn(self.size)]
        return max(1, int((np.cumsum(lengths) <= tokens).sum()))

    def fold(self, folds: int, number: int) -> TaskSubject:
        if not folds:
            return self
        records = [*self.parts.train, *self.parts.validation]
        drawn = fold_of_each(self.fitted.task, records, folds)
        kept = [one for one, fold in zip(records, drawn, strict=True) if fold != number]
        validation = [one for one, fold in zip(records, drawn, strict=True) if fold == number]
        source = TaskSource(self.fitted, kept, validation)
        parts = Parts(kept, validation, self.parts.test)
        twice = {name: count for name, count in self.counts.duplicates.items() if name == "test"}
        counts = replace(self.counts, train=len(kept), validation=len(validation), duplicates=twice)
        return TaskSubject(self.fitted, parts, source, self.measure, counts, self.passes)

    def most_steps(self, run: RunSpec) -> int:
        return max(1, round(self._source.buckets(run).per_pass * self.passes))

    def data(self, tokenizer: str) -> DataResult:
        parts = self.parts
        plain = layer("heads=1, mask=causal" if self.models.stack == "encoder-decoder" else "heads=1, mask=full")
        spec = self.models.complete(ModelSpec(vocab_size=1, width=8, depth=1, layers=(plain,)))
        return DataResult(
            description=f"{parts.train[0].where.partition(', line')[0]}: {self.counts.text()} records",
            fingerprint=self.fingerprint,
            tokenizer=tokenizer,
            vocabulary=spec.vocab_size,
            train_tokens=sum(one.length for one in self._source.train),
            validation_tokens=sum(one.length for one in self._source.validation),
            train_records=len(parts.train),
            validation_records=len(parts.validation),
            test_records=len(parts.test),
        )

    def protocol(self, tokens: int, *, folds: int) -> str:
        share = "all" if tokens >= self.size else f"{tokens:,} drawn"
        after = (
            "the folds contain them, and records that the search was trained on"
            if folds
            else "the finals are judged by all of them"
        )
        together = f" {self._kept_together()}" if folds else ""
        fresh = " The figures called test are of records that decided nothing." if self.parts.test else ""
        return (
            f"The search chose attention and settings by the {self.measure.name} on {share} of the validation records "
            f"with one seed, each run by its best weights on the way; {after}, so their seeds are fresh but their "
            f"records are not: scores, and perhaps gains, are slightly too good.{together}{fresh}"
        )

    def _kept_together(self) -> str:
        task = self.fitted.task
        columns = Groups.of(task, [*self.parts.train, *self.parts.validation]).columns
        evenly = "" if task.drawn_by is None else f", and each fold has its share of every {task.drawn_by}"
        return f"Records with the same {' and '.join(columns)} are in one fold{evenly}."

    def save(self, folder: Path, model: nn.Module, *, card: str, extra: Mapping[str, Any]) -> None:
        shape = TableShape.of(self.parts.train[0], self.fitted.task.columns)
        extra = {**extra, **({} if shape is None else shape.kept())}
        save_task_model(folder, model, getattr(model, "spec"), self.fitted, card=card, extra=extra)  # noqa: B009

    def probe(self, model: nn.Module) -> Probe:
        plain = [dict(one.values) for one in _telling(self.fitted, self.parts.validation, PROBED)]
        text = json.dumps(plain, ensure_ascii=False, default=str)
        with torch.no_grad():
            return Probe(logits_of(model.eval(), self.fitted, json.loads(text)), records=text)

    def sample(self, model: nn.Module) -> Sample:
        return predictions_text(model, self.fitted, self.parts.test or self.parts.validation)

    def picture(self, model: nn.Module) -> AttentionPicture | None:
        return attention_over(model, self.fitted, self._source.validation)

    def report(self, model: nn.Module, folder: Path, facts: Mapping[str, str]) -> Path:
        return write_task_report(model, self.fitted, self.parts, folder, {**facts, "records": self.counts.text()})


def logits_of(model: nn.Module, fitted: Fitted, records: Sequence[Mapping[str, Any]]) -> Tensor:
    """What `model` makes of records with their answers, in one batch."""
    held = [Record(dict(one), f"record {number}") for number, one in enumerate(records, start=1)]
    examples = [example for record in held for example in fitted.examples(record)]
    part = fitted.batch(examples, next(model.parameters()).device)
    logits: Tensor = model(part.ids, part.layout, **part.inputs).logits
    return logits.contiguous()


def _drawn(count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """The numbers up to `count` in an order that is always the same."""
    return np.random.default_rng(0).permutation(count)
