"""Cells of a grid of trainings: kept one file each the moment they are done, and computed in processes side by side."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import torch

from attentune.mechanisms import load_plugin, registry
from attentune.models.storage import atomic_write

Key = TypeVar("Key")
Result = TypeVar("Result")


def keep_cell(folder: Path, identity: dict[str, Any], result: dict[str, Any]) -> None:
    """Writes a cell's result, whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    content = {"identity": identity, "result": result}
    atomic_write(_file(folder, identity), json.dumps(content, indent=1) + "\n")


def kept_cell(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The result that `folder` keeps for exactly this identity; None where there is none that can be read."""
    try:
        held = json.loads(_file(folder, identity).read_text(encoding="utf-8"))
        same = held["identity"] == json.loads(json.dumps(identity))
        result: dict[str, Any] | None = held["result"] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result


def _file(folder: Path, identity: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / "cells" / f"{digest[:20]}.json"


def each_in_a_process(
    function: Callable[..., Result],
    work: Sequence[tuple[Key, tuple[Any, ...]]],
    *,
    jobs: int,
    plugin: Path | None,
    finished: Callable[[Key, Result], None],
) -> None:
    """Calls `function(*arguments)` for each (key, arguments), `jobs` at a time in processes with one thread each.

    `finished(key, result)` is called here as results come. The first failure ends the rest and is raised.
    """
    others = set(active_children())
    pool = ProcessPoolExecutor(
        min(jobs, len(work)), mp_context=get_context("spawn"), initializer=_begin, initargs=(plugin,)
    )
    try:
        keys: dict[Future[Result], Key] = {pool.submit(function, *arguments): key for key, arguments in work}
        left = set(keys)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                finished(keys[future], future.result())
    except BaseException:
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(plugin: Path | None) -> None:
    torch.set_num_threads(1)
    if plugin is not None:
        load_plugin(plugin, registry)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would otherwise wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
