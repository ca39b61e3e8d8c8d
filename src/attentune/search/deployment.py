"""The stage of deployment: the chosen model saved, loaded by a fresh process, and compared with the one in memory.

`python -m attentune.search.deployment MODEL PROBE [PLUGIN]` is that fresh process: it loads the model folder, computes
the logits of the tokens or records in the safetensors file PROBE, and prints how far they are from those stored there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attentune.errors import AttentuneError, StudyError
from attentune.kernels.layout import LayoutKind
from attentune.layers.attention import Attention
from attentune.mechanisms import load_plugin, registry
from attentune.models.checkpoint import load_model, read_config
from attentune.search.result import DeploymentCheck
from attentune.search.subject import Probe, Subject
from attentune.search.task_subject import logits_of
from attentune.tasks.folder import load

TOLERANCE = 1e-4  # of logits computed in float32 by another process


def deploy(
    model: nn.Module, subject: Subject, folder: Path, *, card: str, extra: Mapping[str, Any], plugin: str | None = None
) -> DeploymentCheck:
    """Saves `model` in `folder` and has a fresh process check it.

    Raises:
        StorageError: the folder cannot be written.
        StudyError: the fresh process could not load the model; the message says why.
    """
    subject.save(folder, model, card=card, extra=extra)
    return check(subject.probe(model), folder, plugin=plugin)


def check(probe: Probe, folder: Path, *, plugin: str | None = None) -> DeploymentCheck:
    """Whether the model in `folder`, loaded by a fresh process, gives the logits of `probe`."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "probe.safetensors"
        save_file({**probe.inputs, "logits": probe.logits}, path, metadata={"records": probe.records})
        command = [sys.executable, "-m", "attentune.search.deployment", str(folder), str(path)]
        done = subprocess.run(
            [*command, *([plugin] if plugin else [])],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            check=False,
        )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise StudyError(
            f"the model in {folder} cannot be loaded by a fresh process: {said[-1] if said else 'no reason given'}"
        )
    difference = float(json.loads(done.stdout)["max_logit_difference"])
    return DeploymentCheck(
        model=str(folder),
        max_logit_difference=difference,
        tolerance=TOLERANCE,
        passed=difference <= TOLERANCE,
        seconds=time.perf_counter() - begun,
    )


def plan_text(model: nn.Module) -> str:
    """Which kernel computes each different attention of `model` while it trains, and why not the others."""
    found = []
    for attention in (one for one in model.modules() if isinstance(one, Attention)):
        kind = LayoutKind.CROSS if attention.cross else LayoutKind.PLAIN
        found.append(attention.plans[kind, True, False, 0].explain())
    return "\n\n".join(dict.fromkeys(found))


@torch.no_grad()
def _logits(folder: Path, ids: Tensor | None, records: str) -> Tensor:
    """Of a model of a task from the records as they stand, so that its tokenizers and labels are checked as well."""
    if isinstance(read_config(folder).get("task"), dict):
        found = load(folder)
        return logits_of(found.model, found.fitted, json.loads(records))
    logits: Tensor = load_model(folder).decoder(ids).logits
    return logits


def main(arguments: Sequence[str]) -> int:
    """The fresh process; returns its exit code."""
    folder, probe, *plugin = arguments
    try:
        if plugin:
            load_plugin(plugin[0], registry)
        with safe_open(probe, framework="pt") as file:
            records = (file.metadata() or {}).get("records", "")
        held = load_file(probe)
        logits = _logits(Path(folder), held.get("ids"), records)
    except AttentuneError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent process reads it
        return 2
    worst = float((logits - held["logits"]).abs().max())
    print(json.dumps({"max_logit_difference": worst}))  # noqa: T201 - the parent process reads it
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
