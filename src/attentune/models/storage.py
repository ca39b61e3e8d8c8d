"""Writing that is all or nothing: what stands under the final name is always complete.

Content goes to a temporary sibling, is forced to the disk, and is then renamed. The writer holds a lock on its
temporary, so that the next write to the same path can tell the leftovers of a killed run from the work of a
living one, and removes only the former. Whatever the operating system refuses becomes a `StorageError` of one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from attentune.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows: no leftovers are recognised there, everything else holds
    fcntl = None  # type: ignore[assignment]

_PARTIAL = "partial"  # being filled
_PREVIOUS = "previous"  # the old folder, moved aside for the instant of the exchange
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers report the system's errors
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_CURRENT_FOLDER = -100  # AT_FDCWD

_ADVICE = {
    errno.ENOSPC: "no space left on the disk; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EFBIG: "the file would exceed the largest size allowed here; write elsewhere",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "operation not permitted; choose a folder that you may write to",
    errno.ENOENT: "it cannot be made there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: "the disk reported a failure; check it or write elsewhere",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}


def storage_error(error: OSError, path: str | os.PathLike[str]) -> StorageError:
    """What the system said about writing `path`, as one line with what to do."""
    place = Path(path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        culprit = next((p for p in (place, *place.parents) if p.exists() and not p.is_dir()), None)
        if culprit is not None:
            return StorageError(f"cannot write {place}: {culprit} is a file, not a folder; choose another path")
    advice = _ADVICE.get(error.errno or 0) or (error.strerror or str(error) or type(error).__name__)
    return StorageError(f"cannot write {place}: {advice}")


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns every `OSError` of the block, and those reported by Rust libraries, into a `StorageError` about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error
    except Exception as error:
        code = _RUST_ERROR.search(str(error))
        if code is None:
            raise
        number = int(code.group(1))
        raise storage_error(OSError(number, os.strerror(number)), path) from error


def prepare_folder(path: str | os.PathLike[str]) -> Path:
    """Makes the folder `path` with its parents and proves that files can be written in it.

    Raises:
        StorageError: it cannot be made, or nothing can be written in it.
    """
    folder = Path(path)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary(folder / "probe", _PARTIAL)
        try:
            _write_file(probe, b"\0")
        finally:
            probe.unlink(missing_ok=True)
    return folder


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) so that `path` holds either the old content or all of the new.

    Missing parent folders are made; a symbolic link is followed; leftovers of killed writers are removed.

    Raises:
        StorageError: the system refused; `path` is then as it was before.
    """
    data = content.encode() if isinstance(content, str) else content
    with storage_errors(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise StorageError(f"cannot write {path}: it is a device or a pipe, not a file; choose another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        settle(target)
        temporary = _temporary(target, _PARTIAL)
        try:
            _write_file(temporary, data, then_rename_to=target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _force_folder(target.parent)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty temporary folder to fill; when the block ends well, it becomes `path` as a whole.

    A folder that stood there is replaced, and is untouched when the block raises.

    Raises:
        StorageError: the system refused, in the block (any `OSError`) or afterwards.
    """
    with storage_errors(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        settle(target)
        temporary = _temporary(target, _PARTIAL)
        temporary.mkdir()
        lock = _lock(temporary)
        try:
            yield temporary
            for folder, _, files in os.walk(temporary, topdown=False):
                for name in files:
                    _force_file(Path(folder) / name)
                _force_folder(Path(folder))
            _take_place(temporary, target)
            _force_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def settle(path: str | os.PathLike[str]) -> None:
    """Clears up after writers of `path` that were killed: removes their leftovers, or puts back the old folder.

    Where the system cannot exchange two folders in one step, a kill can strike between moving the old folder aside
    and moving the new one in; readers that must not miss the old one call this first. Living writers are left alone.
    """
    target = Path(os.path.realpath(path))
    for leftover in _leftovers(target, _PREVIOUS):
        if not target.exists():
            os.rename(leftover, target)
    for leftover in _leftovers(target, _PARTIAL) + _leftovers(target, _PREVIOUS):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _temporary(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.{kind}"


def _leftovers(target: Path, kind: str) -> list[Path]:
    pattern = f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.{kind}"
    return [found for found in sorted(target.parent.glob(pattern)) if _abandoned(found)]


def _write_file(path: Path, data: bytes, *, then_rename_to: Path | None = None) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _hold(handle)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
        if then_rename_to is not None:
            os.replace(path, then_rename_to)  # while the lock is held: a leftover is never mistaken for this file
    finally:
        os.close(handle)


def _hold(handle: int) -> bool:
    """Locks an open file or folder; the system lets go when the process ends, however it ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock(folder: Path) -> int | None:
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    _hold(handle)
    return handle


def _abandoned(leftover: Path) -> bool:
    """Whether no living process holds the lock on `leftover`."""
    if fcntl is None:
        return False
    try:
        handle = os.open(leftover, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _hold(handle)
    finally:
        os.close(handle)


def _take_place(new: Path, target: Path) -> None:
    """Puts the folder `new` under the name `target`; what stood there is removed afterwards."""
    if not target.exists():
        os.rename(new, target)
        return
    if _exchange(new, target):
        return  # the old folder now has the temporary's name, and is removed with it
    aside = _temporary(target, _PREVIOUS)
    os.rename(target, aside)
    lock = _lock(aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one indivisible step; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_CURRENT_FOLDER, os.fsencode(first), _CURRENT_FOLDER, os.fsencode(second), _EXCHANGE)
    return done == 0


def _force_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _force_folder(path: Path) -> None:
    """Makes renames inside `path` durable; folders cannot be opened or synced everywhere, and need not be."""
    with contextlib.suppress(OSError):
        _force_file(path)
