"""Schemes of tags: how the entities of a sentence are written token by token, and how that becomes IOB2.

IOB1 begins an entity with I, and with B only right after another of the same kind (Ramshaw and Marcus, 1995,
arXiv:cmp-lg/9505040); IOB2 begins every entity with B (Tjong Kim Sang and Veenstra, 1999, arXiv:cs/9907006); BIOES
also marks its end with E and an entity of one token with S. BMES (M for I) and BILOU (L for E, U for S) are the same
under other letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

Scheme = Literal["iob1", "iob2", "bioes", "plain"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

_TAG = re.compile(r"([BIMESLU])-(.+)", re.DOTALL)
_SAME = {"M": "I", "L": "E", "U": "S"}


def parted(tag: str) -> tuple[str, str] | None:
    """`B-person` to (`B`, `person`), in the letters of BIOES; `O` to (`O`, ``); None: it is of another form."""
    if tag == "O":
        return "O", ""
    match = _TAG.fullmatch(tag)
    return None if match is None else (_SAME.get(match[1], match[1]), match[2])


def as_iob2(tags: Sequence[str], scheme: Scheme) -> tuple[list[str], list[int]]:
    """The tags of a sentence in IOB2, and the places of those that break the rules of `scheme`.

    These are read as `conlleval` does: what goes on with nothing begins an entity. Tags of scheme `plain` stay.
    """
    if scheme == "plain":
        return list(tags), []
    result: list[str] = []
    broken: list[int] = []
    before, kind_before = "O", ""
    for place, tag in enumerate(tags):
        letter, kind = parted(tag) or ("O", "")
        goes_on = letter in ("I", "E") and kind == kind_before and before in ("B", "I")
        if not _legal(scheme, letter, before, goes_on=goes_on, same=kind == kind_before):
            broken.append(place)
        result.append("O" if letter == "O" else f"{'I' if goes_on else 'B'}-{kind}")
        before, kind_before = letter, kind
    if scheme == "bioes" and before in ("B", "I"):
        broken.append(len(tags) - 1)  # the entity has no end
    return result, broken


def likeliest_scheme(broken: Mapping[Scheme, int], *, ends: bool) -> Scheme:
    """BIOES where entities have marks of their ends, else IOB2 or IOB1, whichever is `broken` by fewer tags."""
    return "bioes" if ends else min(("iob2", "iob1"), key=broken.__getitem__)


def _legal(scheme: Scheme, letter: str, before: str, *, goes_on: bool, same: bool) -> bool:
    if scheme == "iob1":
        return letter != "B" or same
    if scheme == "iob2":
        return letter != "I" or goes_on
    return goes_on if letter in ("I", "E") else before not in ("B", "I")
