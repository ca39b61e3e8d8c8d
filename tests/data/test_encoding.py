"""Bytes to text in the encodings that users bring."""

from __future__ import annotations

import random
import warnings

import pytest

from attentune.data.encoding import DataWarning, NotTextError, decode_text
from attentune.errors import DataError

GERMAN = "Ein Mann mit Hut. Über den Wolken können Bäume nicht wachsen; Straße, Größe, süß.\n"
FRENCH = "Le café où l'été s'achève est très fréquenté; çà et là, des élèves révisent.\n"
RUSSIAN = "Привет, как дела? Это простой русский текст для проверки кодировки.\n"
CHINESE = "选择珠江花园的原因就是方便，有电动扶梯直接到达海边，周围餐馆、食廊、商场。\n"
MIXED = "naïve ☃ 𝄞 text\n"


@pytest.mark.parametrize("text", [GERMAN, CHINESE, MIXED])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
def test_unicode_needs_no_guess(text: str, encoding: str) -> None:
    named = encoding if (text, encoding[:7]) == (CHINESE, "utf-16-") else None  # the one case that cannot be told
    assert decode_text((text * 5).encode(encoding), source="f", encoding=named) == text * 5


def test_chinese_utf16_without_mark_asks_for_its_name() -> None:
    with pytest.raises(NotTextError, match="if it is text, name its encoding"):
        decode_text(CHINESE.encode("utf-16-le"), source="f")


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_both_byte_orders_with_mark(mark: bytes) -> None:
    name = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    assert decode_text(mark + MIXED.encode(name), source="f") == MIXED


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(GERMAN, "latin-1"), (FRENCH, "cp1252"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (CHINESE, "gb18030")],
)
def test_older_encodings_are_guessed_and_announced(text: str, encoding: str) -> None:
    plain = "plain ascii line\n" * 50
    with pytest.warns(DataWarning, match="a guess: name its encoding"):
        assert decode_text((plain + text * 8).encode(encoding), source="f") == plain + text * 8


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "cp1252"])
def test_named_encoding_is_not_second_guessed(encoding: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_text(GERMAN.encode(encoding), source="f", encoding=encoding) == GERMAN


def test_mark_is_dropped_when_utf8_is_named() -> None:
    assert decode_text(GERMAN.encode("utf-8-sig"), source="f", encoding="utf-8") == GERMAN


def test_wrong_named_encoding_tells_file_and_offset() -> None:
    with pytest.raises(
        DataError, match=r"book\.txt is not valid utf-8: byte 0xdc at offset 18; name its real"
    ) as caught:
        decode_text(GERMAN.encode("latin-1"), source="book.txt", encoding="utf-8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["utf8x", "hex", "nonsense"])
def test_unknown_encoding(name: str) -> None:
    with pytest.raises(DataError, match=f"encoding '{name}' is unknown"):
        decode_text(b"abc", source="f", encoding=name)


def test_near_name_of_an_encoding() -> None:
    with pytest.raises(DataError, match=r"did you mean .*shift_jis"):
        decode_text(b"abc", source="f", encoding="shift-jsi")


@pytest.mark.parametrize(
    "data",
    [
        random.Random(0).randbytes(5000),
        bytes(range(256)) * 4,
        b"\x89PNG\r\n\x1a\n" + b"abc",
        b"%PDF-1.7 mostly ascii",
        b"text with \0 zero bytes \0\0 here and there",
        b"\x01\x02\x03\x04" * 100,
        b"\xff\xfe" + b"\x00\xd8" * 9,
    ],
)
def test_binary_is_refused(data: bytes) -> None:
    with pytest.raises(NotTextError, match=r"^blob"):
        decode_text(data, source="blob")


def test_line_ends_become_one_kind() -> None:
    assert decode_text(b"a\r\nb\rc\nd\r\n", source="f") == "a\nb\nc\nd\n"
