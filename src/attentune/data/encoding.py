"""Bytes to text: the encoding is named, or found, and what is no text is refused."""

from __future__ import annotations

import codecs
import re
import warnings
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
_SAMPLE = 1 << 20  # characters or bytes looked at when guessing


class DataWarning(UserWarning):
    """Data was read, but in a way that the user should know of."""


class NotTextError(DataError):
    """The bytes are no text in any encoding."""


def decode_text(data: bytes, *, source: str, encoding: str | None = None) -> str:
    r"""The text that `data` holds, without byte order mark and with `\n` as the only line end.

    With `encoding` None: a byte order mark decides; then strict UTF-8; then UTF-16 or UTF-32 without a mark, known by
    their zero bytes; then the guess of charset-normalizer, which is announced by a `DataWarning`.

    Args:
        data: what the file holds.
        source: what messages call it, usually its path.
        encoding: a codec name of Python, or None.

    Raises:
        DataError: unknown `encoding`, or bytes that are not valid in it (with their offset).
        NotTextError: no encoding fits, or the content is binary.
    """
    for start, what in _FORMATS:
        if data.startswith(start):
            raise NotTextError(f"{source} is {what}")
    if encoding is not None:
        text = _named(data, source, encoding)
    else:
        text = _detected(data, source)
        if _looks_binary(text):
            raise NotTextError(f"{source} is binary, not text: {_control_share(text):.1%} of it are control characters")
    if text.startswith("\ufeff"):
        text = text[1:]
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _named(data: bytes, source: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError:
        raise DataError(f"encoding {encoding!r} is unknown; {_near_encodings(encoding)}") from None
    except UnicodeError as error:
        offset = getattr(error, "start", 0)
        shown = f"byte 0x{data[offset]:02x} at offset {offset}" if offset < len(data) else f"offset {offset}"
        raise DataError(
            f"{source} is not valid {encoding}: {shown}; name its real encoding, or none to have it detected"
        ) from None


def _near_encodings(encoding: str) -> str:
    hint = near(encoding.lower().replace("-", "_"), set(aliases) | set(aliases.values()))
    suggestion = hint.partition("known:")[0].strip()
    return f"{suggestion} examples: utf-8, utf-16, latin-1, cp1252, gb18030, shift_jis".strip()


def _detected(data: bytes, source: str) -> str:
    for mark, name in _MARKS:
        # A text in UTF-16 may begin with the character NUL, and then looks like UTF-32.
        if data.startswith(mark) and not (name == "utf-32" and len(data) % 4):
            try:
                return data.decode(name)
            except UnicodeDecodeError as error:
                raise NotTextError(
                    f"{source} begins with the byte order mark of {name.removesuffix('-sig')} but is not valid in it "
                    f"at offset {error.start}; repair it or name its encoding"
                ) from None
    if b"\0" in data[:_SAMPLE]:
        wide = _wide(data[:_SAMPLE])
        if wide is None:
            raise NotTextError(f"{source} is binary, not text: it holds zero bytes; if it is text, name its encoding")
        try:
            return data.decode(wide)
        except UnicodeDecodeError:
            raise NotTextError(f"{source} is binary, not text: it holds zero bytes") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _guessed(data, source, error.start)


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


def _guessed(data: bytes, source: str, offset: int) -> str:
    """By charset-normalizer; Windows' Western European where that is among its candidates, as the most common one."""
    # Whole lines, so that the sample does not begin or end inside a character.
    start = data.rfind(b"\n", 0, offset) + 1
    end = data.find(b"\n", offset + _SAMPLE)
    matches = list(from_bytes(data[start : end if end >= 0 else len(data)]))
    candidates = [match.encoding for match in matches]
    plausible = {name for match in matches for name in match.could_be_from_charset}
    ordered = ["cp1252", *candidates] if "cp1252" in plausible else candidates
    for name in ordered:
        try:
            text = data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
        if _looks_binary(text):
            continue
        warnings.warn(
            f"{source} is not UTF-8 (offset {offset}); read as {name}, a guess: name its encoding if that is wrong",
            DataWarning,
            stacklevel=2,
        )
        return text
    raise NotTextError(
        f"{source} is not UTF-8 (byte 0x{data[offset]:02x} at offset {offset}) and its encoding cannot be told; "
        "name it, unless the file is binary"
    )


def _control_share(text: str) -> float:
    sample = text[:_SAMPLE]
    return len(_CONTROL.findall(sample)) / max(1, len(sample))


def _looks_binary(text: str) -> bool:
    return _control_share(text) > _CONTROL_SHARE
