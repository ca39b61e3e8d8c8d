"""The work of `attentune evaluate` for a model of a task: its figures on the records of a file."""

from __future__ import annotations

import json
from pathlib import Path

from attentune.cli.console import activity, print_json
from attentune.cli.evaluate import Options
from attentune.cli.loading import pick_device
from attentune.cli.predicting import HEADER
from attentune.cli.words import UsageError
from attentune.data.shape import TableShape
from attentune.evaluation.looks import looks
from attentune.evaluation.task_report import Figure, TaskReport
from attentune.mechanisms import load_plugin, registry
from attentune.models.storage import atomic_write
from attentune.spec.run import DataSpec
from attentune.tasks.folder import load
from attentune.tasks.reading import read

OF_TRAINING = ("checkpoints", "model", "seed-*", "study.db")  # what a training or a study leaves in its folder
WRITTEN = ("report.md", "result.json")


def measure_task(options: Options, folder: Path) -> None:
    """Score the model on the records, and print the figures; `out` then holds the report."""
    if options.data is None:
        raise UsageError("name the file of records with --data")
    if options.out is not None:
        _refuse_overwriting(options.out)
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    model = load(folder, device=pick_device(options.device))
    data = DataSpec(encoding=options.encoding, header=HEADER[options.header], format=options.format)
    with activity("reading"):
        records = read(model.fitted.task, options.data, data, like=TableShape.read(model.config))
    with activity("predicting"):
        scores = model.score(records)
    report = TaskReport(
        task=f"{model.fitted.task.kind} on {options.data}",
        main=scores.main,
        scored_on="records",
        figures={"records": {name: Figure(value) for name, value in scores.values.items()}},
        baselines={},
        scores=scores,
        curve={},
        facts={"model": str(model.folder), "data": f"{options.data}, {len(records):,} records"},
        looks=() if options.out is None else looks(model.fitted, model.model, records),
    )
    found = {"model": str(model.folder), "data": options.data, "count": len(records), **report.as_data()}
    if options.out is not None:
        pictures = report.pictures()
        for name, picture in pictures.items():
            atomic_write(options.out / name, picture)
        atomic_write(options.out / "report.md", report.markdown(list(pictures)))
        atomic_write(options.out / "result.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    if options.json_:
        print_json(found)
    else:
        print("\n".join(report.lines()))
        if scores.text:
            print(f"\n{scores.text.rstrip()}")


def _refuse_overwriting(out: Path) -> None:
    """Raises UsageError where a training or a study stands in the folder, or files that no evaluation has left."""
    strange = [name for name in OF_TRAINING if any(out.glob(name))]
    if not strange and not _is_evaluation(out / "result.json"):
        strange = [name for name in WRITTEN if (out / name).exists()]
    if strange:
        raise UsageError(f"{out / strange[0]} is of no evaluation; name another folder with --out")


def _is_evaluation(result: Path) -> bool:
    try:
        held = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and isinstance(held.get("data"), str) and "count" in held
