"""The work of `attentune evaluate --suite`: small models trained on a suite, or needles for a trained model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from attentune.cli.console import activity, print_json
from attentune.cli.evaluate import WHERE_TEXT_IS, Options
from attentune.cli.loading import known_text, load, pick_device
from attentune.cli.words import UsageError
from attentune.data.builtin import NAME, builtin_text
from attentune.data.corpus import split_documents
from attentune.data.files import read_documents
from attentune.data.tokenizers import train_tokenizer
from attentune.errors import DataError
from attentune.evaluation.suites import read_suite
from attentune.evaluation.suites.needle import Needle
from attentune.evaluation.suites.scoring import score_examples
from attentune.evaluation.suites.suite import Recipe, Task
from attentune.mechanisms import layer, load_plugin, registry
from attentune.models.checkpoint import model_folder
from attentune.models.storage import atomic_write, prepare_folder
from attentune.training.suite import Setting, SuiteResult, run_suite

HELD_OUT = 0.1  # share of the text whose windows hide the needles that trained models are measured by
TRAINED_LENGTHS = (128, 256)  # tokens (characters) of the rows that models are trained to find needles in
STEPS = 1000  # of the progress bar, which shows percent


def train_on_suite(options: Options, suite: str) -> None:
    """Train small models from scratch, print how well they answer, and write `results.json` where a folder is named."""
    if not options.layer:
        raise UsageError('name the layers to train: --layer "heads=1, mask=causal" (see attentune evaluate --help)')
    device = pick_device(options.device)
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    task = _task(options, suite)
    layers = [layer(text) for text in _layer_texts(options.layer)]
    setting = Setting.of(task, layers, _recipe(options, task))
    folder = prepare_folder(options.out) if options.out is not None else None
    with activity("training", percent=True) as report:
        result = run_suite(
            setting,
            seeds=range(options.seeds),
            learning_rates=options.learning_rates,
            folder=folder,
            jobs=options.jobs,
            device=device,
            plugin=options.plugin,
            progress=lambda share, note: report(round(share * STEPS), STEPS, note),
        )
    found = result.to_data()
    if folder is not None:
        atomic_write(folder / "results.json", json.dumps(found, indent=1) + "\n")
    if options.json_:
        print_json(found)
    else:
        print(_shown(result))


def find_needles(options: Options, suite: str, folder: Path) -> None:
    """Ask the model of `folder` for needles in a text, and print the grid."""
    needle = read_suite(suite)
    if not isinstance(needle, Needle):
        raise UsageError(
            f"suite {needle} is in tokens of its own, which no trained model knows: leave out the model and name a "
            "--layer to train, or use --suite needle"
        )
    changed = options.recipe.model_dump(exclude_none=True)
    if other := [name for name in changed if name != "test_examples"]:
        raise UsageError(f"--recipe.{other[0].replace('_', '-')} is for models that are trained from scratch")
    model, tokenizer = load(folder, device=options.device, plugin=options.plugin)
    try:
        tokenizer.encode(needle.alphabet)
    except DataError:
        raise UsageError(
            f"this model's tokenizer does not know every character of the needles, {needle.alphabet!r}: leave out the "
            "model and name a --layer, and one that knows them is trained"
        ) from None
    source = options.data or NAME
    text = known_text("\n\n".join(_documents(options)), tokenizer, unknown=options.unknown, of=source)
    task = needle.bind(text, text, tokenizer, context=model.spec.context, source=source)
    rows = options.recipe.test_examples or task.recipe.test_examples
    examples = task.test(rows, np.random.default_rng((0, 1)))
    with activity("finding needles") as report:
        score = score_examples(
            model, examples, counts=task.counts, batch=8, progress=lambda done, total: report(done, total)
        )
    if options.json_:
        print_json({"model": str(model_folder(folder)), "text": source, "suite": task.name, **asdict(score)})
    else:
        print(f"{source}: {score.accuracy:.1%} of {score.rows} needles found\n{_grid(score.groups)}")


def _layer_texts(given: tuple[str, ...]) -> list[str]:
    """The text of each layer, wherever `;` stands between two of them."""
    texts = [text.strip() for one in given for text in one.split(";")]
    if not all(texts):
        said = "; ".join(given)
        raise UsageError(f"--layer {said!r}: no layer stands beside a `;`; leave it out, or write the layer there")
    return texts


def _task(options: Options, suite: str) -> Task:
    named = read_suite(suite)
    if not isinstance(named, Needle):
        for name in WHERE_TEXT_IS:
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} does not go with suite {named}, which makes its own examples")
        return named
    needle = named if named.lengths else named.replace(lengths=TRAINED_LENGTHS)
    documents = _documents(options)
    train, held_out = ("\n\n".join(part) for part in split_documents(documents, HELD_OUT))
    tokenizer = train_tokenizer("char", [*documents, "\n", needle.alphabet], vocab_size=0)
    return needle.bind(train, held_out, tokenizer, context=max(needle.lengths), source=options.data or NAME)


def _documents(options: Options) -> list[str]:
    if options.data is None:
        return [builtin_text()]
    with activity("reading") as report:
        return read_documents(options.data, column=options.column, encoding=options.encoding, progress=report)


def _recipe(options: Options, task: Task) -> Recipe:
    changed = options.recipe.model_dump(exclude_none=True)
    return task.recipe.replace(**changed, **({} if options.depth is None else {"depth": options.depth}))


def _shown(result: SuiteResult) -> str:
    model, several = result.setting.model, len(result.best) > 1
    layers = "; ".join(str(layer) for layer in model.layers)
    size = f"{model.depth} layers, width {model.width}, {result.cells[0].parameters:,} parameters"
    lines = [
        f"{result.setting.task.name}: {layers} ({size})",
        f"{'learning rate':<15}{'seed':<6}{'accuracy':<10}{'epochs':<16}seconds",
    ]
    for cell in result.cells:
        epochs = f"{cell.epochs} (solved)" if cell.solved else f"{cell.epochs}"
        lines.append(
            f"{cell.learning_rate:<15g}{cell.seed:<6}{cell.score.accuracy:<10.4f}{epochs:<16}{cell.seconds:.1f}"
        )
        if cell.failure is not None:
            lines.append(f"  {cell.failure}")
    spread = f" ± {result.spread:.4f} over {len(result.best)} seeds" if several else " with one seed"
    lines.append(f"accuracy {result.accuracy:.4f}{spread} at learning rate {result.learning_rate:g}")
    if groups := result.groups():
        lines.append(_grid(groups))
    return "\n".join(lines)


def _grid(groups: dict[str, float]) -> str:
    """The accuracy of `length L, depth D` as a table: a row for each depth, a column for each length."""
    cells: dict[tuple[str, str], float] = {}
    for name, accuracy in groups.items():
        length, depth = (part.split(" ")[1] for part in name.split(", "))
        cells[depth, length] = accuracy
    lengths = list(dict.fromkeys(length for _, length in cells))
    depths = list(dict.fromkeys(depth for depth, _ in cells))
    lines = [f"{'depth':<8}" + "".join(f"{length:>9}" for length in lengths) + "  tokens"]
    lines += [f"{depth:<8}" + "".join(f"{cells[depth, length]:>9.2f}" for length in lengths) for depth in depths]
    return "\n".join(lines)
