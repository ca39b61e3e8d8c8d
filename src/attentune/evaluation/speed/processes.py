"""One piece of work in a process of its own, watched: it ends when it takes too long or too much memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from typing import Any

from attentune.evaluation.speed.memory import resident

POLL = 0.02  # seconds between two looks at a process's memory
LAST_SECONDS = 10.0  # from the result to the end of the process
START_SECONDS = 180.0  # until a process has begun: it may have to import PyTorch first

Say = Callable[[str, float], None]  # names the stage that begins, and how many seconds it may take
Work = Callable[..., dict[str, Any]]  # takes a `Say` and its arguments, returns plain data


@dataclass(frozen=True)
class Outcome:
    """What came of it: its result, or why there is none (`failure`), and in which `stage` that was.

    `limit` tells which limit ended it: `time`, `memory`, or None where it ended by itself.
    """

    result: dict[str, Any] | None
    failure: str = ""
    stage: str = ""
    limit: str | None = None


def guarded(work: Work, *arguments: Any, limit_bytes: float, cache: str | None = None) -> Outcome:
    """Calls `work(say, *arguments)` in a fresh process, which may take `limit_bytes` beyond what it begins with.

    `cache` is the folder that compilers keep their products in. An interrupt here ends the process too.
    """
    context: Any = multiprocessing.get_context(_method())  # the stubs know no Process of a context in general
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_inside, args=(sender, cache, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        outcome = _watched(process, receiver, limit_bytes)
        if outcome.limit is None:
            process.join(LAST_SECONDS)  # it clears up after itself
        return outcome
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        receiver.close()


def _method() -> str:
    """A process that is forked off a fresh one has PyTorch imported already, and has computed nothing yet."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["attentune.evaluation.speed.measurement"])
    return "forkserver"


def _watched(process: Any, receiver: Connection, limit_bytes: float) -> Outcome:
    stage, deadline, before = "start", time.monotonic() + START_SECONDS, 0
    while True:
        try:
            if receiver.poll(POLL):
                kind, *rest = json.loads(receiver.recv_bytes())
                if kind == "result":
                    return Outcome(rest[0], stage=stage)
                if kind == "error":
                    return Outcome(None, rest[0], stage)
                stage, seconds = rest
                deadline = time.monotonic() + seconds
                before = before or resident(process.pid) or 0
        except EOFError:
            process.join()
            return Outcome(None, f"the process ended with code {process.exitcode}", stage)
        if before and (resident(process.pid) or 0) - before > limit_bytes:
            return Outcome(None, f"took more than {limit_bytes / 2**30:.3g} GiB", stage, "memory")
        if time.monotonic() > deadline:
            return Outcome(None, "took too long", stage, "time")


def _inside(sender: Connection, cache: str | None, work: Work, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cache is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - what libraries say to the terminal
    warnings.simplefilter("ignore")

    def send(*message: Any) -> None:
        sender.send_bytes(json.dumps(message).encode())

    def say(stage: str, seconds: float) -> None:
        send("stage", stage, seconds)

    try:
        send("result", work(say, *arguments))
    except MemoryError as error:
        send("error", f"out of memory: {_line(error)}")
    except Exception as error:
        send("error", f"{type(error).__name__}: {_line(error)}")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _end_with_parent() -> None:
    """A process whose parent was killed would otherwise go on measuring for nobody."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
