"""The settings of a training as those of a study: the file that `attentune train` takes is one for `optimize` too.

What is trained stays as the file says, and is the baseline that candidates have to beat. The learning rate is searched
from a quarter to four times that of the file, and its `epochs` or `steps` are what a run has at most.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attentune.cli.words import UsageError

OF_TRAINING: Final = ("optimizer", "schedule", "clip")  # tables that a study does not have
SAME: Final = (
    "task",
    "data",
    "context",
    "batch",
    "steps",
    "regularizer",
    "average",
    "validation_path",
    "test_path",
    "drop_duplicates",
    "epochs",
    "plugin",
    "out",
    "budget",
    "candidates",
    "tuning",
    "objective",
    "search_steps",
    "search_share",
    "search_validation_tokens",
    "combinations",
    "margin",
    "folds",
    "tolerance",
)
OF_OPTIMIZER: Final = ("name", "learning_rate", "weight_decay", "beta1", "beta2", "momentum", "adamw_ratio")
OF_MODEL: Final = (
    "width",
    "depth",
    "norm",
    "norm_placement",
    "embedding_norm",
    "bias",
    "tie_embeddings",
    "scale_embeddings",
    "ngrams",
    "logit_factor",
    "dropout",
    "attention_dropout",
)
AROUND: Final = 4.0  # times the learning rate, up and down
FEWEST_SEEDS: Final = 3


def is_of_training(table: Mapping[str, Any]) -> bool:
    """Whether a file describes a training and not a study."""
    model = table.get("model", {})
    return any(name in table for name in OF_TRAINING) or (isinstance(model, dict) and "layers" in model)


def study_of(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table of a study whose baseline is what the table of a training describes.

    Raises:
        UsageError: it says something that a study decides itself, or cannot hold.
    """
    table = dict(table)
    found: dict[str, Any] = {name: table.pop(name) for name in SAME if name in table}
    settings, tuning = {}, dict(found.get("tuning", {}))
    optimizer = _table(table, "optimizer", path, OF_OPTIMIZER)
    if "name" in optimizer:
        settings["optimizer"] = optimizer.pop("name")
    settings |= optimizer
    name = settings.get("optimizer", "adamw")
    tuning.setdefault("optimizers", [name])
    if "learning_rate" in settings:
        rate = settings["learning_rate"]
        tuning.setdefault("learning_rates", {name: [rate / AROUND, rate * AROUND]})
    schedule = _table(table, "schedule", path, ("name", "warmup", "floor"))
    settings |= {{"name": "schedule", "warmup": "warmup_steps"}.get(key, key): held for key, held in schedule.items()}
    tuning.setdefault("schedules", [settings.get("schedule", "cosine")])
    clip = _table(table, "clip", path, ("name", "limit"))
    settings |= {{"name": "clip", "limit": "clip_limit"}[key]: held for key, held in clip.items()}
    tuning.setdefault("clips", [settings.get("clip", "norm")])
    if (precision := table.pop("precision", "auto")) != "auto":
        settings["precision"] = precision
        tuning.setdefault("precisions", [precision])
    first, count = table.pop("seed", 0), table.pop("seeds", FEWEST_SEEDS)
    found["seeds"] = count if isinstance(count, list) else list(range(first, first + max(count, FEWEST_SEEDS)))
    model, baselines = _model(_table(table, "model", path, None), path)
    for name in table:
        raise UsageError(f"{path}: {name} is for `attentune train`; a study decides it itself, so leave it out")
    return {**found, **baselines, "settings": settings, "tuning": tuning, "model": model}


def _table(table: dict[str, Any], name: str, path: Path, known: tuple[str, ...] | None) -> dict[str, Any]:
    held = table.pop(name, {})
    if not isinstance(held, dict):
        raise UsageError(f"{path}: {name} is a table: write [{name}] and its keys below it")
    for key in held if known is not None else ():
        if key not in (known or ()):
            raise UsageError(f"{path}: {name}.{key} cannot be said of a study; leave it out")
    return dict(held)


def _model(given: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Sizes, and the baseline's attentions by the names that a study has for them."""
    sizes: dict[str, Any] = {name: given.pop(name) for name in OF_MODEL if name in given}
    network = _table(given, "feed_forward", path, ("name", "hidden"))
    sizes |= {{"name": "feed_forward", "hidden": "hidden"}[key]: held for key, held in network.items()}
    encoder = _table(given, "encoder", path, ("depth", "layers"))
    if "depth" in encoder:
        sizes["encoder_depth"] = encoder["depth"]
    added = given.pop("position", "none")
    layers, own = given.pop("layers", None), {}
    if layers is not None:
        own["baseline"], across, heads = _texts(layers, added, path)
        sizes["heads"] = heads
        if across:
            own["baseline_cross"] = across
    elif added != "none":
        raise UsageError(f"{path}: model.position stands beside model.layers; write both, or neither")
    if "layers" in encoder:
        own["baseline_encoder"], _, _ = _texts(encoder["layers"], added, path)
    if [name for name in given.pop("share", ()) if name != "embedding"]:
        raise UsageError(f"{path}: model.share=position cannot be said of a study; leave it out")
    for name in given:
        raise UsageError(f"{path}: model.{name} cannot be said of a study; leave it out")
    return sizes, own


def _texts(layers: str | list[str], added: str, path: Path) -> tuple[str, str, int]:
    """Self-attentions, what looks across (empty where nothing does), and the number of heads of the first layer."""
    from attentune.spec.slots import SLOTS
    from attentune.spec.text import split

    own, across, heads = [], [], 4
    for number, text in enumerate([layers] if isinstance(layers, str) else layers):
        slots = split(text, (*SLOTS, "cross"))
        looking = slots.pop("cross", None)
        parts = {slot: ast.unparse(node) for slot, node in slots.items()}
        if number == 0 and parts.get("heads", "").partition("/")[0].strip().isdigit():
            heads = int(parts["heads"].partition("/")[0])
        if added != "none":
            inside = parts.get("position", "none")
            parts["position"] = added if inside == "none" else f"{added} + {inside}"
        own.append(_text(parts, heads))
        if looking is not None:
            if not isinstance(looking, ast.Call):
                raise UsageError(f"{path}: write cross=attention(heads=...), got {ast.unparse(looking)!r}")
            given = {str(one.arg): ast.unparse(one.value) for one in looking.keywords}
            across.append(_text(given, heads))
    return "; ".join(own), "; ".join(across), heads


def _text(parts: Mapping[str, str], heads: int) -> str:
    """The text of an attention; heads that are as many as the model has fit other shapes too."""
    named = {**parts, "heads": "multi_head"} if parts.get("heads") == str(heads) else parts
    return ", ".join(f"{slot}={value}" for slot, value in named.items())
