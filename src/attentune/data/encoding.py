"""Bytes to text: the encoding is named, or found, and what is no text is refused.

Files are looked at a block at a time, so that finding the encoding of a large one takes no more memory than that of
a small one.
"""

from __future__ import annotations

import codecs
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from encodings.aliases import aliases

from charset_normalizer import from_bytes

from attentune.errors import DataError, near

# The longer marks first: UTF-32 little-endian begins with the mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FORMATS = (
    (b"%PDF-", "a PDF document; extract its text first"),
    (b"PK\x03\x04", "a ZIP archive or an office document; unpack it or export its text first"),
    (b"\x89PNG", "a PNG picture, not text"),
    (b"\xff\xd8\xff", "a JPEG picture, not text"),
    (b"GIF8", "a GIF picture, not text"),
    (b"\x7fELF", "a program, not text"),
    (b"PAR1", "a Parquet file; give it the ending .parquet"),
    (b"\xd0\xcf\x11\xe0", "an old office document; export its text first"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ", "xz-compressed; unpack it first"),
    (b"(\xb5/\xfd", "zstd-compressed; unpack it first"),
    (b"SQLite format 3", "a SQLite database; export its text first"),
)
_CONTROL = re.compile(r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f\x80-\x84\x86-\x9f]")
_CONTROL_SHARE = 0.005  # real text has next to none, binary data read as text has several per cent
_SAMPLE = 1 << 20  # bytes looked at when guessing
_BLOCK = 1 << 20  # bytes decoded at a time

OpenBytes = Callable[[], AbstractContextManager[io.BufferedIOBase]]
"""Opens the same bytes again, from their start."""


class DataWarning(UserWarning):
    """Data was read, but in a way that the user should know of."""


class NotTextError(DataError):
    """The bytes are no text in any encoding."""


def decode_text(data: bytes, *, source: str, encoding: str | None = None) -> str:
    r"""The text that `data` holds, without byte order mark and with `\n` as the only line end.

    Args:
        data: what the file holds.
        source: what messages call it, usually its path.
        encoding: a codec name of Python, or None to find it as `find_codec` does.

    Raises:
        DataError: unknown `encoding`, or bytes that are not valid in it (with their offset).
        NotTextError: no encoding fits, or the content is binary.
    """

    def open_bytes() -> io.BufferedIOBase:
        return io.BytesIO(data)

    codec = find_codec(open_bytes, source=source, encoding=encoding)
    try:
        text = data.decode(codec)
    except UnicodeError:
        raise not_valid(open_bytes, codec, source=source) from None
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def find_codec(open_bytes: OpenBytes, *, source: str, encoding: str | None = None) -> str:
    """The name of the codec that decodes these bytes; one that is named is not tried on them.

    With `encoding` None: a byte order mark decides; then strict UTF-8; then UTF-16 or UTF-32 without a mark, known by
    their zero bytes; then the guess of charset-normalizer, which is announced by a `DataWarning`.

    Raises:
        DataError: `encoding` is unknown.
        NotTextError: no encoding fits, or the content is binary.
    """
    with open_bytes() as stream:
        start = stream.read(_SAMPLE)
    for mark, what in _FORMATS:
        if start.startswith(mark):
            raise NotTextError(f"{source} is {what}")
    if encoding is not None:
        return _known(encoding)
    codec = _detected(start, open_bytes, source)
    share = _control_share(_decoded_start(start, codec))
    if share > _CONTROL_SHARE:
        raise NotTextError(f"{source} is binary, not text: {share:.1%} of it are control characters")
    return codec


def not_valid(open_bytes: OpenBytes, codec: str, *, source: str) -> DataError:
    """The error that says where bytes that `codec` did not decode break its rules."""
    offset, found = _first_invalid(open_bytes, codec) or (0, None)
    shown = f"offset {offset}" if found is None else f"byte 0x{found:02x} at offset {offset}"
    return DataError(f"{source} is not valid {codec}: {shown}; name its real encoding, or none to have it detected")


def _known(encoding: str) -> str:
    try:
        b"a".decode(encoding)
    except LookupError:
        raise DataError(f"encoding {encoding!r} is unknown; {_near_encodings(encoding)}") from None
    except UnicodeError:
        pass  # one byte is no character in the wide encodings
    return encoding


def _near_encodings(encoding: str) -> str:
    hint = near(encoding.lower().replace("-", "_"), set(aliases) | set(aliases.values()))
    suggestion = hint.partition("known:")[0].strip()
    return f"{suggestion} examples: utf-8, utf-16, latin-1, cp1252, gb18030, shift_jis".strip()


def _first_invalid(open_bytes: OpenBytes, codec: str) -> tuple[int, int | None] | None:
    """The offset of the first byte that is not valid, and that byte unless the end is missing; None: all are valid."""
    decoder, read = codecs.getincrementaldecoder(codec)(), 0
    with open_bytes() as stream:
        while True:
            block = stream.read(_BLOCK)
            read += len(block)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # What is decoded ends with this block, and may begin with bytes left over from the one before.
                offset = read - len(error.object) + error.start
                return offset, error.object[error.start] if error.start < len(error.object) else None
            except UnicodeError:
                return read, None
            if not block:
                return None


def _detected(start: bytes, open_bytes: OpenBytes, source: str) -> str:
    marked = [codec for mark, codec in _MARKS if start.startswith(mark)]
    for codec in marked:  # two where a text in UTF-16 begins with the character NUL, which looks like UTF-32
        if _first_invalid(open_bytes, codec) is None:
            return codec
    if marked:
        offset, _ = _first_invalid(open_bytes, marked[-1]) or (0, None)
        raise NotTextError(
            f"{source} begins with the byte order mark of {marked[-1].removesuffix('-sig')} but is not valid in it "
            f"at offset {offset}; repair it or name its encoding"
        )
    if b"\0" in start:
        wide = _wide(start)
        if wide is None:
            raise NotTextError(f"{source} is binary, not text: it holds zero bytes; if it is text, name its encoding")
        if _first_invalid(open_bytes, wide) is not None:
            raise NotTextError(f"{source} is binary, not text: it holds zero bytes")
        return wide
    invalid = _first_invalid(open_bytes, "utf-8")
    return "utf-8" if invalid is None else _guessed(open_bytes, source, invalid[0])


def _wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: most zero bytes stand at the same places of each unit."""
    zeros = [data[place::4].count(0) / max(1, len(data[place::4])) for place in range(4)]
    if min(zeros[2:]) > 0.9 and zeros[0] < 0.1:
        return "utf-32-le"
    if min(zeros[:2]) > 0.9 and zeros[3] < 0.1:
        return "utf-32-be"
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    if even > 0.3 and odd < 0.05:
        return "utf-16-be"
    return None


def _guessed(open_bytes: OpenBytes, source: str, offset: int) -> str:
    """By charset-normalizer; Windows' Western European where that is among its candidates, as the most common one."""
    matches = list(from_bytes(_lines_around(open_bytes, offset)))
    candidates = [match.encoding for match in matches]
    plausible = {name for match in matches for name in match.could_be_from_charset}
    with open_bytes() as stream:
        start = stream.read(_SAMPLE)
    for name in ["cp1252", *candidates] if "cp1252" in plausible else candidates:
        try:
            fits = _first_invalid(open_bytes, name) is None
        except LookupError:
            continue
        if not fits or _control_share(_decoded_start(start, name)) > _CONTROL_SHARE:
            continue
        warnings.warn(
            f"{source} is not UTF-8 (offset {offset}); read as {name}, a guess: name its encoding if that is wrong",
            DataWarning,
            stacklevel=2,
        )
        return name
    with open_bytes() as stream:
        found = next(block for block in _from(stream, offset))[0]
    raise NotTextError(
        f"{source} is not UTF-8 (byte 0x{found:02x} at offset {offset}) and its encoding cannot be told; "
        "name it, unless the file is binary"
    )


def _lines_around(open_bytes: OpenBytes, offset: int) -> bytes:
    """About a sample of bytes that hold `offset`: whole lines, so as not to begin or end inside a character."""
    before = min(offset, _SAMPLE)
    with open_bytes() as stream:
        sample = b""
        for block in _from(stream, offset - before):
            sample += block
            if len(sample) >= before + 2 * _SAMPLE:
                break
    start = sample.rfind(b"\n", 0, before) + 1
    end = sample.find(b"\n", before + _SAMPLE)
    return sample[start : end if end >= 0 else len(sample)]


def _from(stream: io.BufferedIOBase, offset: int) -> Iterator[bytes]:
    """Blocks of the bytes from `offset` on, of streams that cannot seek as well."""
    read = 0
    while block := stream.read(_BLOCK):
        if read + len(block) > offset:
            yield block[max(0, offset - read) :]
        read += len(block)


def _decoded_start(start: bytes, codec: str) -> str:
    """As much of the first bytes as is whole characters."""
    return codecs.getincrementaldecoder(codec)(errors="replace").decode(start)


def _control_share(text: str) -> float:
    return len(_CONTROL.findall(text)) / max(1, len(text))
