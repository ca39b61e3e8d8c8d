"""Where the numbers of a run go while it runs: a small interface, TensorBoard, and JSON lines.

Another service is one more class. Weights & Biases, for example:

    class WandbTracker:
        def __init__(self, project: str) -> None:
            import wandb

            self._run = wandb.init(project=project, resume="allow")

        def start(self, config, *, step): self._run.config.update(config, allow_val_change=True)
        def log(self, step, metrics): self._run.log(dict(metrics), step=step)
        def text(self, step, name, content): ...
        def finish(self): self._run.finish()

    train(model, corpus, run, trackers=[WandbTracker("shakespeare")])
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol, final, runtime_checkable

from attentune.models.storage import atomic_write, storage_errors


@runtime_checkable
class Tracker(Protocol):
    """Takes the numbers of one run. Steps are completed optimizer steps and never go backwards after `start`."""

    def start(self, config: Mapping[str, Any], *, step: int) -> None:
        """The run begins, or goes on after `step` steps: what was logged beyond `step` is void."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers by name, such as `train/loss` in nats per token."""

    def text(self, step: int, name: str, content: str) -> None:
        """A text, such as the layers whose gradients vanish."""

    def finish(self) -> None:
        """The run has ended, well or not; called once."""


@final
class JsonlTracker:
    """One JSON object a line in `path`, each `{"step": ..., name: value, ...}`, readable while the run goes on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def start(self, config: Mapping[str, Any], *, step: int) -> None:
        """Keeps the records up to `step`, drops later ones and a half-written last line; a new run starts empty.

        Raises:
            StorageError: `path` cannot be written.
        """
        kept = [line for line in self._lines() if step > 0 and line["step"] <= step]
        if not kept:
            kept = [{"step": 0, "config": dict(config)}]
        atomic_write(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        with storage_errors(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append({"step": step, **metrics})

    def text(self, step: int, name: str, content: str) -> None:
        self._append({"step": step, name: content})

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, record: dict[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("start() comes before log()")
        with storage_errors(self.path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines


@final
class TensorBoardTracker:
    """Event files for TensorBoard in `folder`; see them with `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def start(self, config: Mapping[str, Any], *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second of import that other runs need not pay

        with storage_errors(self.folder):
            self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
        if step == 0:
            self._writer.add_text("config", f"```json\n{json.dumps(dict(config), indent=2, default=str)}\n```", 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, content: str) -> None:
        self._writer.add_text(name, content, step)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
