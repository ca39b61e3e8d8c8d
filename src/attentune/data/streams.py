"""Files as streams: of bytes, unpacked on the way, and of lines of text, in memory that does not grow with them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, cast, final

from attentune.data.encoding import find_codec, not_valid
from attentune.errors import DataError, near

Progress = Callable[[int, int], None]
"""Told (done, total) as work goes on; both in units of the caller's own kind (bytes, characters)."""

STANDARD_INPUT = "-"
_GZIP_MARK = b"\x1f\x8b"


@final
class DataFile:
    """A file that can be read from its start as often as needed; gzip is unpacked whatever the file is called.

    What can be read only once, which is the standard input (`-`) and a named pipe, is first copied to a temporary file.

    Raises:
        DataError: there is no such file.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._copy: io.BufferedIOBase | None = None
        self._raw: io.BufferedIOBase | None = None
        self.path: Path | None = None
        if source == STANDARD_INPUT:
            self.name = "the standard input"
            self._keep(cast(io.BufferedIOBase, sys.stdin.buffer))
            return
        self.path = Path(source)
        self.name = str(self.path)
        if self.path.is_fifo():
            with self._read_errors(), self.path.open("rb") as pipe:
                self._keep(pipe)
        else:
            require_file(self.path)

    def _keep(self, stream: io.BufferedIOBase) -> None:
        self._copy = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (it lives as long as this value)
        weakref.finalize(self, self._copy.close)
        shutil.copyfileobj(stream, self._copy)

    @property
    def kind(self) -> str:
        """The ending that tells the format, below `.gz`, in small letters; empty where there is none."""
        return "" if self.path is None else ending(self.path)

    @property
    def size(self) -> int:
        """Bytes on the disk, before unpacking."""
        if self._copy is not None:
            place = self._copy.tell()
            size = self._copy.seek(0, io.SEEK_END)
            self._copy.seek(place)
            return size
        assert self.path is not None
        return self.path.stat().st_size

    @property
    def position(self) -> int:
        """How many of these bytes the reading under way has taken."""
        return 0 if self._raw is None else self._raw.tell()

    @contextlib.contextmanager
    def opened(self) -> Iterator[io.BufferedIOBase]:
        """The unpacked bytes from their start.

        Raises:
            DataError: the file cannot be read, or its compression is damaged.
        """
        with self._read_errors(), contextlib.ExitStack() as stack:
            if self._copy is not None:
                raw = self._copy
                raw.seek(0)
            else:
                assert self.path is not None
                raw = stack.enter_context(self.path.open("rb"))
            self._raw = raw
            stack.callback(setattr, self, "_raw", None)
            start = raw.read(len(_GZIP_MARK))
            raw.seek(0)
            packed = start == _GZIP_MARK or (start and self.path is not None and self.path.suffix.lower() == ".gz")
            yield stack.enter_context(gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw

    def read(self) -> bytes:
        """All unpacked bytes."""
        with self.opened() as stream:
            return stream.read()

    def codec(self, encoding: str | None) -> str:
        """The codec of the text: the one that is named, or found as `find_codec` does."""
        return find_codec(self.opened, source=self.name, encoding=encoding)

    def lines(self, codec: str, *, returns: bool = True) -> Generator[str, None, None]:
        r"""The lines, each but perhaps the last with its `\n`, without byte order mark.

        With `returns`, a carriage return ends a line too, alone or before `\n`; otherwise it stays where it is.

        Raises:
            DataError: bytes that are not valid in `codec`, with their offset.
        """
        with self.opened() as stream:
            text = io.TextIOWrapper(cast(IO[bytes], stream), encoding=codec, newline=None if returns else "\n")
            try:
                for number, line in enumerate(text):
                    yield line if number else line.removeprefix("\ufeff")
            except UnicodeError:
                raise not_valid(self.opened, codec, source=self.name) from None
            finally:
                text.detach()  # the stream is closed where it was opened

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except gzip.BadGzipFile as error:
            if str(error).startswith("Not a gzipped file"):
                raise DataError(
                    f"{self.name} is not packed by gzip, as its ending says: take .gz off its name"
                ) from None
            raise DataError(f"{self.name} is not a complete gzip file: {error}") from None
        except (EOFError, zlib.error) as error:
            raise DataError(f"{self.name} is not a complete gzip file: {error}") from None
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from None


def ending(path: Path) -> str:
    """The ending that tells the format, below `.gz`, in small letters."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def require_file(path: Path) -> None:
    """Raises DataError unless `path` is a file, with near names of those that stand beside it."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the file in it that is meant")
    if path.exists():
        raise DataError(f"{path} is neither a file nor a folder; give one of these")
    parent = path.parent
    if not parent.is_dir():
        raise DataError(f"{path} does not exist, nor does its folder {parent}")
    hint = near(path.name, [entry.name for entry in parent.iterdir()]).partition("known:")[0].strip()
    raise DataError(f"{path} does not exist; {hint}" if hint else f"{path} does not exist")
