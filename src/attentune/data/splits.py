"""Parts of records: drawn reproducibly, evenly by label or by whole groups, and free of each other's texts."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attentune.data.encoding import DataWarning
from attentune.data.record import Record
from attentune.errors import DataError

Places = list[int]


def split(
    records: Sequence[Record], share: float, seed: int = 0, *, by: str | None = None, group: str | None = None
) -> tuple[list[Record], list[Record]]:
    """The records without those drawn, and those drawn: about `share` of them; both in the order they came in.

    The same records, share and seed give the same parts.

    Args:
        records: at least two.
        share: above 0 and below 1.
        seed: of the draw.
        by: a column of labels; each label gives its share, as nearly as whole records allow, but never its last one.
        group: a column whose values stay together, such as the article of a question; they are the same where they
            differ in white space or capital letters alone.

    Raises:
        DataError: a share out of range, `by` and `group` at once, fewer than two records or groups, or a share of
            them that is none or all.
    """
    if not 0 < share < 1:
        raise DataError(f"share must be above 0 and below 1, got {share}")
    if by is not None and group is not None:
        raise DataError(f"a split is by label ({by!r}) or keeps groups together ({group!r}), not both; leave one out")
    random = np.random.default_rng(seed)
    members: dict[str | bytes, Places] = {}
    for place, record in enumerate(records):
        label = "" if by is None else _key(record[by])
        members.setdefault(label if group is None else mark(record, (group,)), []).append(place)
    drawn = _whole(members, share, random) if group is not None else _even(members, share, random)
    if not 0 < len(drawn) < len(records):
        what = f"{len(members)} groups" if group is not None else f"{len(records)} records"
        raise DataError(f"a share of {share:g} of {what} leaves one part empty; bring more, or choose another share")
    kept = [record for place, record in enumerate(records) if place not in drawn]
    return kept, [records[place] for place in sorted(drawn)]


def _even(classes: Mapping[str | bytes, Places], share: float, random: np.random.Generator) -> set[int]:
    """The share of each class, rounded so that all together are the share of the whole (largest remainders first)."""
    exact = {label: share * len(places) for label, places in classes.items()}
    counts = {label: int(number) for label, number in exact.items()}
    missing = round(share * sum(map(len, classes.values()))) - sum(counts.values())
    room = [
        label for label, places in classes.items() if exact[label] > counts[label] and counts[label] + 1 < len(places)
    ]
    for label in sorted(room, key=lambda label: counts[label] - exact[label])[:missing]:  # equal ones as they came
        counts[label] += 1
    drawn: set[int] = set()
    for label, places in classes.items():
        drawn |= set(random.permutation(places)[: counts[label]].tolist())
    return drawn


def _whole(groups: Mapping[str | bytes, Places], share: float, random: np.random.Generator) -> set[int]:
    """Groups in a random order, each taken if that brings the number of records nearer to the share of the whole."""
    target = share * sum(map(len, groups.values()))
    names = list(groups)
    drawn: set[int] = set()
    for place in random.permutation(len(names)).tolist():
        members = groups[names[place]]
        if abs(len(drawn) + len(members) - target) < abs(len(drawn) - target):
            drawn |= set(members)
    return drawn


@dataclass(frozen=True)
class Duplicates:
    """Records whose texts stand in both of two parts, by their places."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    of: int  # records of the test part

    @property
    def share(self) -> float:
        """Of the test part."""
        return len(self.test) / self.of if self.of else 0.0


def duplicates(
    train: Iterable[Record],
    test: Iterable[Record],
    columns: Sequence[str],
    *,
    names: tuple[str, str] = ("train", "test"),
    warn: bool = True,
) -> Duplicates:
    """The records of `test` whose `columns` also stand in `train`, and those of `train` that they stand in.

    Texts are the same that differ in white space or capital letters alone. Where there are any, a `DataWarning` counts
    them, unless `warn` is False; `without(train, found.train)` or `without(test, found.test)` drops them.

    Raises:
        DataError: no columns, or one that a record does not have.
    """
    if not columns:
        raise DataError("duplicates are looked for in at least one column; name it")
    marks = [mark(record, columns) for record in train]
    wanted = [mark(record, columns) for record in test]
    in_train, in_test = set(marks), set(wanted)
    found = Duplicates(
        train=tuple(place for place, mark in enumerate(marks) if mark in in_test),
        test=tuple(place for place, mark in enumerate(wanted) if mark in in_train),
        of=len(wanted),
    )
    if found.test and warn:
        first, second = names
        where = f"column{'s' if len(columns) > 1 else ''} {' and '.join(columns)}"
        warnings.warn(
            f"{len(found.test)} of {found.of} {second} records ({found.share:.1%}) also stand in {first} (the same in "
            f"{where}), and flatter what is measured on them; drop_duplicates leaves them out of training",
            DataWarning,
            stacklevel=2,
        )
    return found


def without(records: Sequence[Record], places: Iterable[int]) -> list[Record]:
    """The records but those at `places`."""
    dropped = set(places)
    return [record for place, record in enumerate(records) if place not in dropped]


def mark(record: Record, columns: Sequence[str]) -> bytes:
    """A digest, which takes less memory than the texts; of 16 bytes, so that no two texts share one by chance."""
    text = "\0".join(" ".join(_key(record[column]).split()).casefold() for column in columns)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
