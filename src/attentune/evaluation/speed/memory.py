"""How much memory a call needs: the most that the process ever held at once, less what it held before."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from attentune.shapes import Tensor

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5), clear_refs
SAMPLES = 0.0005  # seconds between two looks where the system keeps no high-water mark that can be reset


def resident(process: int | str = "self") -> int | None:
    """Bytes of memory that a process holds; None where the system does not tell, or the process is gone."""
    return _entry(Path(f"/proc/{process}/status"), "VmRSS")


def available() -> int | None:
    """Bytes that new work may take without driving others out; None where the system does not tell."""
    return _entry(Path("/proc/meminfo"), "MemAvailable")


def _entry(path: Path, name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


class PeakMemory:
    """Between `with` and its end: `bytes`, the most memory held at once beyond what was held at the beginning.

    None where it cannot be measured. On CUDA what PyTorch's allocator handed out; on a CPU the resident set.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes: int | None = None
        self._before = 0
        self._marked = False  # whether the system's own high-water mark could be reset
        self._highest = 0
        self._watching = False
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        give_back()
        self._before = resident() or 0
        self._marked = _reset_peak()
        if not self._marked and self._before:
            self._watching, self._highest = True, self._before
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self._before
        elif self._marked:
            highest = _entry(STATUS, "VmHWM")
            self.bytes = None if highest is None else max(highest - self._before, 0)
        elif self._watcher is not None:
            self._watching = False
            self._watcher.join()
            self.bytes = max(self._highest - self._before, 0)

    def _watch(self) -> None:
        while self._watching:
            self._highest = max(self._highest, resident() or 0)
            time.sleep(SAMPLES)


def _reset_peak() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def give_back() -> None:
    """Returns freed memory to the system, so that what comes next is seen to be taken."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def held_bytes(*things: object) -> int:
    """Bytes of all tensors inside `things`, every storage once: tensors, containers and dataclasses are looked into."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    open_: list[Any] = list(things)
    while open_:
        one = open_.pop()
        if one is None or isinstance(one, str | bytes | int | float | torch.dtype) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, Mapping):
            open_ += one.values()
        elif isinstance(one, Iterable):
            open_ += list(one)
        elif is_dataclass(one) and not isinstance(one, type):
            open_ += [getattr(one, field.name) for field in fields(one)]
        elif callable(getattr(one, "as_tuple", None)):  # FlexAttention's block masks
            open_ += list(one.as_tuple())
    return sum(storages.values())
