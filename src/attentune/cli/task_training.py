"""The work of `attentune train --task`: records to examples, a model for each seed, and the folder that is left."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attentune.cli.console import activity, print_json, warnings_after
from attentune.cli.loading import pick_device
from attentune.cli.starting import Start, read_start
from attentune.cli.train import Options
from attentune.cli.training import model_spec
from attentune.cli.words import UsageError
from attentune.data.shape import TableShape
from attentune.evaluation.cost import parameter_count
from attentune.evaluation.looks import looks
from attentune.evaluation.task_report import TaskReport
from attentune.mechanisms import load_plugin, registry
from attentune.models.storage import atomic_write
from attentune.spec.model import ModelSpec
from attentune.spec.run import RunSpec
from attentune.tasks.folder import save_task_model
from attentune.tasks.registry import read_task
from attentune.tasks.task import Fitted
from attentune.training.adapting import Beginning
from attentune.training.task import Counts, Parts, TaskRun, over_seeds, read_parts, train_task
from attentune.training.task_source import TaskSource
from attentune.training.trackers import JsonlTracker, TensorBoardTracker

WRITTEN = ("model", "report.md", "result.json", "log.jsonl", "curve.png", "confusion.png", "calibration.png")
OF_TEXT = ("column", "isolate_documents")  # of DataSpec: a task names its columns, and its rows are apart anyway


def train_on_task(options: Options, text: str) -> None:
    """Train as `options` say.

    `out` then holds `model/`, `result.json`, `report.md` and pictures, and `checkpoints/`, `tensorboard/`, `log.jsonl`;
    with several seeds these three in a folder for each, and in `model/` the seed that did best on the validation
    records.
    """
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    task = read_task(text)
    for name in OF_TEXT:
        if getattr(options.data, name):
            raise UsageError(f"data.{name} is for language models: it does nothing for a task")
    if options.evaluate_tokens != RunSpec.model_fields["evaluate_tokens"].default:
        raise UsageError(
            "--evaluate-tokens is for language models: a task is measured on all of its validation records"
        )
    _refuse_overwriting(options.out)
    device = pick_device(options.device)
    run = RunSpec(**{name: getattr(options, name) for name in RunSpec.model_fields})
    start = read_start(options, run, task.stack)
    if start is not None:
        run = run.replace(data=run.data.replace(tokenizer_from=str(start.origin.folder)))
    with activity("reading", percent=True) as report:
        parts, counts = read_parts(
            task,
            run.data,
            validation_path=options.validation_path,
            test_path=options.test_path,
            drop_duplicates=options.drop_duplicates,
            progress=report,
        )
    with activity("preparing examples"), warnings_after():
        fitted = task.fit(parts.train, run.data, context=run.context)
        fitted.widen(parts.test)
        source = TaskSource(fitted, parts.train, parts.validation)
        for record in parts.test:
            fitted.examples(record)  # refuses unknown labels now, and not after hours
    if options.epochs is not None:
        run = source.for_epochs(run, options.epochs)
    if start is None:
        spec = fitted.complete(model_spec(options.model, vocab_size=1, context=run.context, stack=task.stack))
    else:
        spec = fitted.complete(start.spec)
    begin = None if start is None else start.beginning(fitted)
    runs = [
        _trained(options, fitted, source, parts, spec, run.replace(seed=run.seed + number), device, begin)
        for number in range(options.seeds)
    ]
    _leave(options, text, fitted, source, parts, spec, run, runs, counts, start)


def _refuse_overwriting(out: Path) -> None:
    """Raises UsageError where files stand in a folder that no training has begun in, and one would write over them."""
    if (out / "checkpoints").exists() or any(out.glob("seed-*")):
        return
    for name in WRITTEN:
        if (out / name).exists():
            raise UsageError(f"{out / name} is of no training that was begun there; name another folder with --out")


def _trained(
    options: Options,
    fitted: Fitted,
    source: TaskSource,
    parts: Parts,
    spec: ModelSpec,
    run: RunSpec,
    device: Any,
    begin: Beginning | None,
) -> TaskRun:
    place = options.out if options.seeds == 1 else options.out / f"seed-{run.seed}"
    title = "training" if options.seeds == 1 else f"training, seed {run.seed}"
    with activity(title) as report:
        return train_task(
            fitted,
            source,
            parts,
            spec,
            run,
            device=device,
            folder=place / "checkpoints",
            resume=not options.restart,
            trackers=(JsonlTracker(place / "log.jsonl"), TensorBoardTracker(place / "tensorboard")),
            progress=lambda step, steps, loss, speed: report(step, steps, f"loss {loss:.3f}, {speed:,.0f} tokens/s"),
            prepare=begin,
        )


def _leave(
    options: Options,
    text: str,
    fitted: Fitted,
    source: TaskSource,
    parts: Parts,
    spec: ModelSpec,
    run: RunSpec,
    runs: list[TaskRun],
    counts: Counts,
    start: Start | None,
) -> None:
    """Writes the model and what it is worth, and prints a summary."""
    best = max(runs, key=lambda one: (one.best.value, -one.best.loss))
    scored_on, asked = ("test", parts.test) if parts.test else ("validation", parts.validation)
    scores = best.test or best.validation
    figures = {"validation": over_seeds([one.validation for one in runs])}
    if parts.test:
        figures["test"] = over_seeds([one.test for one in runs if one.test is not None])
    shape = TableShape.of(parts.train[0], fitted.task.columns)
    folder = save_task_model(
        options.out / "model",
        best.model,
        spec,
        fitted,
        extra={
            "run": run.replace(seed=best.seed).model_dump(mode="json"),
            "score": dict(scores.values),
            **({} if shape is None else shape.kept()),
        },
    )
    with activity("baselines"):
        baselines = fitted.baseline(parts.train, asked) if options.baselines else {}
    with activity("pictures"):
        seen = looks(fitted, best.model, asked)
    waste = source.buckets(run).waste
    size = parameter_count(best.model)
    report = TaskReport(
        task=text,
        main=scores.main,
        scored_on=scored_on,
        figures=figures,
        baselines=baselines,
        scores=scores,
        curve={one.seed: [asdict(point) for point in one.curve] for one in runs},
        facts={
            **({} if start is None else {"from": start.told()}),
            "records": counts.text(),
            "training": f"{run.steps:,} steps in {sum(one.result.seconds for one in runs):.1f} s, {size:,} parameters, "
            f"{waste:.1%} of the tokens are padding",
            **({} if len(runs) == 1 else {"trainings": _spread(runs, best)}),
            "best after": ", ".join(f"{one.best.step:,} steps (seed {one.seed})" for one in runs),
        },
        looks=seen,
    )
    pictures = report.pictures()
    for name, picture in pictures.items():
        atomic_write(options.out / name, picture)
    atomic_write(options.out / "report.md", report.markdown(list(pictures)))
    result = {
        "model": str(folder),
        "out": str(options.out),
        "parameters": size,
        **({} if start is None else {"from": start.told()}),
        "records": asdict(counts),
        "padding": waste,
        "seeds": [_seed(one) for one in runs],
        **report.as_data(),
    }
    atomic_write(options.out / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    if options.json_:
        print_json(result)
    else:
        print("\n".join([*report.lines(), *_last_lines(options.out, folder)]))


def _spread(runs: list[TaskRun], best: TaskRun) -> str:
    seeds = ", ".join(str(one.seed) for one in runs)
    return (
        f"{len(runs)}, with the seeds {seeds}: figures are their mean ± standard deviation; the model that is kept, "
        f"its pictures and its mistakes are those of seed {best.seed}, which did best on the validation records"
    )


def _seed(one: TaskRun) -> dict[str, Any]:
    return {
        "seed": one.seed,
        "steps": len(one.result.losses),
        "best_step": one.best.step,
        "loss": one.best.loss,
        "validation": dict(one.validation.values),
        "test": None if one.test is None else dict(one.test.values),
        "seconds": one.result.seconds,
        "tokens_per_second": one.result.tokens_per_second,
        "peak_bytes": one.result.peak_bytes,
    }


def _last_lines(out: Path, folder: Path) -> list[str]:
    return [
        f"{'report':<11} {out / 'report.md'}",
        f"{'model':<11} {folder}",
        f"{'go on':<11} attentune predict {folder} --input FILE --output FILE",
    ]
