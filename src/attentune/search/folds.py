"""Folds of records: which records stay together, and the fold of each.

Two questions about one article, or one text that stands in the records twice, are no strangers: with one of them in the
training part of a fold and the other held out, the fold measures what was learned by heart. Folds are therefore drawn
of groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attentune.data.records import Record
from attentune.data.splits import mark
from attentune.errors import DataError
from attentune.tasks.reading import kept_together
from attentune.tasks.task import Task


@dataclass(frozen=True)
class Groups:
    """Records that have the same `columns`, but for white space and capital letters, are of one group."""

    columns: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]  # of the records of each group

    @classmethod
    def of(cls, task: Task, records: Sequence[Record]) -> Groups:
        """By the column that is `kept_together`, else by all that the task reads."""
        column = kept_together(task, records)
        columns = task.asked if column is None else (column,)
        places: dict[bytes, list[int]] = {}
        for place, record in enumerate(records):
            places.setdefault(mark(record, columns), []).append(place)
        return cls(columns, tuple(map(tuple, places.values())))

    def check(self, folds: int) -> None:
        """Raises DataError where some fold would hold no group."""
        if folds > len(self.places):
            kept = f"records with the same {' and '.join(self.columns)} stay together"
            raise DataError(
                f"folds must be at most {len(self.places)}, the number of groups ({kept}), got {folds}; "
                "choose fewer folds, or bring more records"
            )


def fold_of_each(task: Task, records: Sequence[Record], folds: int) -> list[int]:
    """The number of the fold that holds out each record: always the same ones, of about equally many records.

    Groups go one by one, large ones first and equal ones in a random order, into the fold that has the fewest records
    with their label (of `task.drawn_by`, that of a group being its first record's), of these into the smallest.

    Raises:
        DataError: there are more folds than groups.
    """
    groups = Groups.of(task, records)
    groups.check(folds)
    labels = None if task.drawn_by is None else [str(one[task.drawn_by]) for one in records]
    return spread(groups.places, folds, labels)


def spread(groups: Sequence[Sequence[int]], parts: int, labels: Sequence[str] | None = None) -> list[int]:
    """The number of the part that each place goes to, whole groups together; see `fold_of_each`."""
    drawn = [groups[number] for number in np.random.default_rng(0).permutation(len(groups))]
    sizes, held = [0] * parts, Counter[tuple[int, str]]()
    found = [0] * sum(map(len, groups))
    for places in sorted(drawn, key=len, reverse=True):
        label = "" if labels is None else labels[places[0]]
        part = min(range(parts), key=lambda number: (held[number, label], sizes[number]))
        sizes[part] += len(places)
        held[part, label] += len(places)
        for place in places:
            found[place] = part
    return found
