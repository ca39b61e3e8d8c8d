"""Work for watched processes, where they can import it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

Say = Callable[[str, float], None]


def add(say: Say, a: int, b: int) -> dict[str, Any]:
    say("add", 60.0)
    return {"sum": a + b, "process": os.getpid(), "cache": os.environ.get("TORCHINDUCTOR_CACHE_DIR")}


def fail(say: Say) -> dict[str, Any]:
    say("fail", 60.0)
    raise RuntimeError("no\n  luck")


def die(say: Say) -> dict[str, Any]:
    say("die", 60.0)
    os._exit(7)


def wait(say: Say) -> dict[str, Any]:
    say("wait", 0.2)
    time.sleep(60)
    return {}


def grow(say: Say) -> dict[str, Any]:
    say("grow", 60.0)
    held = [torch.ones(2**20) for _ in range(64)]  # 256 MiB, all of them written
    time.sleep(60)
    return {"held": len(held)}
