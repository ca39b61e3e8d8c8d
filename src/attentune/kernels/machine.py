"""How fast this machine is at what kernels do: measured once by `attentune plan --calibrate`, else rough defaults."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from attentune.errors import StorageError
from attentune.kernels.kernel import Cost

PHASES = ("forward", "backward", "decode")  # `backward` is a forward pass with the backward pass after it


@dataclass(frozen=True)
class Speed:
    """Of one path through a kernel in one phase: seconds that each piece costs anyhow, and operations a second."""

    overhead: float
    operations: float


@dataclass(frozen=True)
class Machine:
    """Rates of a machine. `speeds` is by path and phase, such as `blocked forward`; `measured` tells where from."""

    matrix_products: float  # operations a second
    memory: float  # bytes a second
    speeds: dict[str, Speed]
    measured: bool = False
    spread: float = 1.0  # of the matrix product's time while measuring: the slowest over the fastest

    def seconds(self, cost: Cost, phase: str) -> float:
        """The predicted time: pieces cost their overhead, and then arithmetic or memory is the bound."""
        speed = self.speeds.get(f"{cost.path} {phase}") or self._expected(f"{cost.path} {phase}")
        return speed.overhead * cost.pieces + max(cost.operations / speed.operations, cost.bytes / self.memory)

    def _expected(self, name: str) -> Speed:
        """Of a path that was not measured: as built in, by how much slower or faster this machine's arithmetic is."""
        usual = CPU.speeds.get(name)
        if usual is None:
            return Speed(1e-4, self.matrix_products)
        ratio = self.matrix_products / CPU.matrix_products
        return Speed(usual.overhead / ratio, usual.operations * ratio)


def _speeds(**rates: tuple[float, ...]) -> dict[str, Speed]:
    """Overhead and rate of each path, forward, backward and in decoding, which many short rows have none of."""
    return {
        f"{path} {phase}": Speed(*numbers[2 * n : 2 * n + 2])
        for path, numbers in rates.items()
        for n, phase in enumerate(PHASES[: len(numbers) // 2])
    }


# Two CPU cores with AVX-512 in float32, seen on a quiet machine; and an accelerator, roughly.
CPU = Machine(
    2.5e11,
    2e10,
    _speeds(
        sdpa=(2e-5, 1.75e11, 1e-4, 1.7e11, 2e-5, 2e10),
        sdpa_masked=(6e-5, 9e10, 2e-4, 1.4e11, 4e-5, 1.7e10),
        blocked=(2e-4, 2.3e11, 6e-4, 2.2e11, 2e-4, 1e10),
        query_tiles=(4e-4, 3.4e10, 1.5e-3, 3.8e10, 5e-4, 2.4e10),
        flex=(1.5e-4, 4e10, 1.5e-4, 4e10, 1.5e-4, 2e10),
        reference=(1.5e-4, 2.9e10, 4e-4, 3.9e10, 1.3e-4, 1.4e10),
        # For each row and head of many short rows, on one core: from 8, 14 and 64 tokens.
        sdpa_short=(4.5e-6, 3.4e10, 1.1e-5, 3.3e10),
        sdpa_masked_short=(4.5e-6, 3.4e10, 1.1e-5, 3.3e10),
        blocked_short=(2.5e-6, 3.3e10, 7e-6, 3.2e10),
        query_tiles_short=(8e-6, 1.2e10, 3e-5, 1.7e10),
        flex_short=(6e-6, 1.2e10, 1.2e-5, 1.7e10),
        reference_short=(6e-6, 1.2e10, 1.2e-5, 1.7e10),
    ),
)
CUDA = Machine(
    1e14,
    2e12,
    _speeds(
        sdpa=(2e-5, 1e14, 6e-5, 1e14, 2e-5, 1e14),
        sdpa_masked=(6e-5, 5e13, 1.5e-4, 5e13, 6e-5, 5e13),
        query_tiles=(6e-4, 2e13, 2e-3, 2e13, 6e-4, 2e13),
        flex=(1.5e-4, 8e13, 3e-4, 8e13, 1.5e-4, 8e13),
        reference=(3e-4, 2e13, 8e-4, 2e13, 3e-4, 2e13),
    ),
)


def machine(device: str) -> Machine:
    """The rates to plan with: of this CPU as it was measured, else the defaults."""
    if device != "cpu":
        return CUDA
    return _stored(profile_path()) or CPU


def identity() -> dict[str, str | int]:
    """What a measurement holds for."""
    return {"cpu": _cpu(), "threads": torch.get_num_threads(), "torch": torch.__version__, "attentune": _own_version()}


def profile_path() -> Path:
    """The file of this machine's measurement, in the user's cache folder by the conventions of the platform."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(json.dumps(identity(), sort_keys=True).encode()).hexdigest()[:16]
    return folder / "attentune" / f"machine-{key}.json"


def store(found: Machine) -> Path:
    """Write the measurement, whole or not at all; `StorageError` where the folder cannot be written."""
    path = profile_path()
    text = json.dumps({"machine": identity(), **asdict(found)}, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as error:
        raise StorageError(f"cannot write the machine's profile {path}: {error.strerror or error}") from None
    _stored.cache_clear()
    return path


@lru_cache(maxsize=8)
def _stored(path: Path) -> Machine | None:
    """What was measured; None where nothing was, or where the file is damaged: it can be measured again."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        speeds = {name: Speed(float(one["overhead"]), float(one["operations"])) for name, one in data["speeds"].items()}
        found = Machine(
            float(data["matrix_products"]),
            float(data["memory"]),
            speeds,
            measured=True,
            spread=float(data.get("spread", 1.0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    rates = [found.matrix_products, found.memory, *(speed.operations for speed in speeds.values())]
    if not all(isfinite(rate) and rate > 0 for rate in rates) or any(s.overhead < 0 for s in speeds.values()):
        return None
    return found


@lru_cache(maxsize=1)
def _own_version() -> str:
    try:
        return version("attentune")
    except PackageNotFoundError:
        return "source"


@lru_cache(maxsize=1)
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
