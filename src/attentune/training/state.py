"""Training checkpoints: everything that the next step depends on, whole or not there at all.

`folder/checkpoint-<step>/` holds `model.safetensors`, `optimizer.safetensors`, `run.safetensors` (random generators,
memory, loss history), `progress.json` and `manifest.json` with the size and SHA-256 of the others. The last two are
kept: when the newer one is damaged, training goes on from the older.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attentune.errors import CheckpointError, TrainingError
from attentune.models.checkpoint import signature_of, weights_of
from attentune.models.storage import atomic_folder

FORMAT = "attentune-training"
VERSION = 1
KEPT = 2
_NAME = re.compile(r"checkpoint-(\d+)")
_GROUPS = ("model", "optimizer", "run")


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: tensors by group (`model`, `optimizer`, `run`) and name, and plain JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    progress: dict[str, Any]


def save_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """Writes the checkpoint of `snapshot.step` in one piece, then removes all but the last two.

    Raises:
        StorageError: the folder cannot be written.
    """
    target = folder / f"checkpoint-{snapshot.step}"
    with atomic_folder(target) as new:
        for group in _GROUPS:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors[group].items()}
            save_file(tensors, new / f"{group}.safetensors")
        (new / "progress.json").write_text(json.dumps(snapshot.progress), encoding="utf-8")
        files = {path.name: signature_of(path) for path in sorted(new.iterdir())}
        manifest = {"format": FORMAT, "version": VERSION, "step": snapshot.step, "files": files}
        (new / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_latest(folder: Path) -> Snapshot | None:
    """The newest undamaged checkpoint in `folder`; None where there is none at all. Damaged ones are warned about.

    Raises:
        CheckpointError: all are damaged, or one is not of Attentune or of a newer version.
    """
    found = checkpoints(folder)
    problems: list[str] = []
    for path in reversed(found):
        problem = _problem(path)
        if problem is None:
            if problems:
                warnings.warn(f"{'; '.join(problems)}; going on from {path.name}", stacklevel=3)
            return _read(path)
        problems.append(f"{path} is damaged ({problem})")
    if problems:
        raise CheckpointError(f"{'; '.join(problems)}; remove it or start over (--restart; from Python resume=False)")
    return None


def remove_checkpoints(folder: Path) -> None:
    """Removes all training checkpoints in `folder`, and nothing else."""
    for path in checkpoints(folder):
        shutil.rmtree(path)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def require_same(stored: dict[str, Any], current: dict[str, Any], folder: Path) -> None:
    """Refuses to go on with another run, model or text.

    Raises:
        TrainingError: naming the first differences as `path=stored value, now current value`.
    """
    old, new = _flat(stored), _flat(current)
    paths = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    if not paths:
        return
    typed = [path for path in paths if not _follows(path)]
    shown = sorted(typed, key=lambda path: not path.startswith("run.")) or [p for p in paths if "fingerprint" not in p]
    told = "; ".join(f"{path.removeprefix('run.')}={old.get(path)!r}, now {new.get(path)!r}" for path in shown[:3])
    more = f" (and {len(shown) - 3} more)" if len(shown) > 3 else ""
    if not typed and "data.fingerprint" in paths:
        told, more = "other data, or with other options of the task", ""  # of which sizes and steps are consequences
    raise TrainingError(
        f"{folder} was trained with {told}{more}; use another folder, or start over there "
        "(--restart; from Python resume=False)"
    )


def _follows(path: str) -> bool:
    """Whether a difference there follows from others, of the data or of what users say."""
    return path in ("data.fingerprint", "run.evaluate_every") or path.endswith(("vocab_size", "signature"))


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies `tensors` into the model that they were taken from.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = weights_of(model)
    odd = sorted(own.keys() ^ tensors.keys()) + [
        n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape
    ]
    if odd:
        raise CheckpointError(f"the checkpoint's {odd[0]!r} does not fit the model; it was made by another one")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _read(path: Path) -> Snapshot:
    tensors = {group: load_file(path / f"{group}.safetensors") for group in _GROUPS}
    progress: dict[str, Any] = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    return Snapshot(step=int(progress["step"]), tensors=tensors, progress=progress)


def _problem(path: Path) -> str | None:
    """What is damaged in the checkpoint at `path`; None where it is whole."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "manifest.json is missing or unreadable"
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not an Attentune training checkpoint; choose another folder for this run")
    if manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has training checkpoint version {manifest.get('version')}, this Attentune reads {VERSION}; "
            "use the version that wrote it, or another folder"
        )
    for name, signature in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if signature_of(file) != signature:
            return f"{name} is not as it was written"
    return None


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = ((str(index), item) for index, item in enumerate(value))  # type: ignore[assignment]
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{path}.{key}" if path else str(key))
    return flat
