"""Writing is all or nothing: full disks, killed writers, and places that cannot be written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attentune.errors import StorageError
from attentune.models import storage
from attentune.models.storage import atomic_folder, atomic_write, prepare_folder, settle, storage_errors


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends what is written to the device that is always full, after a few bytes have gone through."""
    real = os.write
    written: set[int] = set()

    def write(handle: int, data: memoryview) -> int:
        if handle not in written:
            written.add(handle)
            return real(handle, data[:3])
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            return real(full, data)
        finally:
            os.close(full)

    monkeypatch.setattr(os, "write", write)


def run_and_die(code: str, folder: Path) -> None:
    """Runs `code` in another process that is killed with no chance to clean up."""
    script = (
        "import importlib.util, os, signal, sys\n"
        "spec = importlib.util.spec_from_file_location('storage', sys.argv[1])\n"
        "storage = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(storage)\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script + code, str(storage.__file__)],
        cwd=folder,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_write_makes_parents_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.json"
    atomic_write(path, "grün")
    atomic_write(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert names(path.parent) == ["file.json"]


def test_write_larger_than_one_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    atomic_write(tmp_path / "file", bytes(range(100)))
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_write_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    atomic_write(path, "old content")
    full_disk(monkeypatch)
    with pytest.raises(StorageError, match=r"cannot write .*model\.bin: no space left") as caught:
        atomic_write(path, "new content")
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old content"
    assert names(tmp_path) == ["model.bin"]


def test_failing_fsync_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="disk reported a failure"):
        atomic_write(tmp_path / "file", "x")
    monkeypatch.undo()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.ENODEV, "No such device"),
    ],
)
def test_each_refusal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=words) as caught:
        atomic_write(tmp_path / "file", "x")
    monkeypatch.undo()
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("I am a file")
    for attempt in (
        lambda: atomic_write(tmp_path / "runs" / "x" / "y", "1"),
        lambda: prepare_folder(tmp_path / "runs"),
    ):
        with pytest.raises(StorageError, match=r"runs is a file, not a folder"):
            attempt()
    with pytest.raises(StorageError, match="is a file, not a folder"), atomic_folder(tmp_path / "runs"):
        pytest.fail("the block must not start")
    assert (tmp_path / "runs").read_text() == "I am a file"


def test_folders_and_devices_are_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="a folder of that name"):
        atomic_write(tmp_path, "x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="device or a pipe"):
        atomic_write(pipe, "x")


def test_prepare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepare_folder(tmp_path / "runs" / "one")
    assert folder.is_dir()
    assert names(folder) == []

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="permission denied"):
        prepare_folder(folder)


def test_killed_writer_leaves_the_old_file_and_is_cleared_up(tmp_path: Path) -> None:
    atomic_write(tmp_path / "state", "old")
    run_and_die("os.fsync = die\nstorage.atomic_write('state', 'half of the new')", tmp_path)
    assert (tmp_path / "state").read_text() == "old"
    assert len(names(tmp_path)) == 2, "the kill was meant to leave something behind"
    atomic_write(tmp_path / "sta", "x")
    assert len(names(tmp_path)) == 3, "leftovers belong to their own path"
    atomic_write(tmp_path / "state", "new")
    assert names(tmp_path) == ["sta", "state"]


def test_living_writers_are_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "best") as first:
        (first / "a").write_text("first")
        with atomic_folder(tmp_path / "best") as second:
            (second / "a").write_text("second")
        assert (tmp_path / "best" / "a").read_text() == "second"
        assert first.is_dir()
    assert (tmp_path / "best" / "a").read_text() == "first"
    assert names(tmp_path) == ["best"]


@pytest.mark.parametrize("exchange", [True, False])
def test_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(storage, "_exchange", lambda first, second: False)
    for version in ("1", "2"):
        with atomic_folder(tmp_path / "best") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / version).write_text(version)
            assert (tmp_path / "best").exists() == (version == "2")
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best" / "inner") == ["2"]


def test_a_failing_block_leaves_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "best") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ValueError, match="mine"), atomic_folder(tmp_path / "best") as folder:
        (folder / "a").write_text("new")
        raise ValueError("mine")
    with pytest.raises(StorageError, match="no space left"), atomic_folder(tmp_path / "best") as folder:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "best" / "a").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_killed_folder_writer(tmp_path: Path) -> None:
    code = "with storage.atomic_folder('best') as folder:\n    (folder / 'a').write_text('half')\n    die()\n"
    run_and_die(code, tmp_path)
    assert not (tmp_path / "best").exists()
    assert len(names(tmp_path)) == 1
    with atomic_folder(tmp_path / "best") as folder:
        (folder / "a").write_text("whole")
    assert names(tmp_path) == ["best"]


def test_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "best") as folder:
        (folder / "a").write_text("old")
    code = (
        "storage._exchange = lambda a, b: False\n"
        "real = os.rename\n"
        "os.rename = lambda a, b: die() if str(a).endswith('partial') else real(a, b)\n"
        "with storage.atomic_folder('best') as folder:\n"
        "    (folder / 'a').write_text('new')\n"
    )
    run_and_die(code, tmp_path)
    assert not (tmp_path / "best").exists()
    settle(tmp_path / "best")
    assert (tmp_path / "best" / "a").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_errors_of_rust_libraries_are_recognised() -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write w\.safetensors: no space left"),
        storage_errors("w.safetensors"),
    ):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), storage_errors("x"):
        raise RuntimeError("something else")
