"""What the drawing of records leaves open in a score: the score with each part of the records left out in turn.

From how a score changes follows its variance, whatever the score, without a formula of its own (Quenouille, "Notes on
Bias in Estimation", Biometrika 1956; Tukey, "Bias and Confidence in Not-quite Large Samples", 1958): see
`attentune.search.analysis.drawing_band`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from attentune.data.records import Record
from attentune.errors import AttentuneError
from attentune.search.folds import spread
from attentune.tasks.task import Prediction, Scores

PARTS = 20  # more of them take longer, and make the band hardly narrower: Student's quantile is 2.09 instead of 1.96
FEWEST_ALONE = 20  # records of a part that is scored by itself


def losses_left_out(
    score: Callable[[Sequence[Prediction], Sequence[Record]], Scores],
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    *,
    groups: Sequence[Sequence[int]] | None = None,
    slow: bool = False,
) -> tuple[float, ...]:
    """Minus the main figure of `score` without each of `PARTS` equal parts of the records, always the same ones.

    `groups` are the places of records that stay together, such as the questions about one article: they are drawn
    together, and are no more independent than one record. None: each record is drawn by itself.

    Where scoring is `slow`, such as that of texts, parts of enough records are scored by themselves, which takes no
    longer than to score all of them once. The mean of all parts but one stands for what these are worth together: of a
    mean over records it is the same, of BLEU nearly so.

    Empty where that is not known: of a single group, or where some of the records have no score by themselves.
    """
    count = len(records)
    together = [[place] for place in range(count)] if groups is None else groups
    parts = min(PARTS, len(together))
    if parts < 2:
        return ()
    part_of = np.array(spread(together, parts))
    alone = slow and count >= FEWEST_ALONE * PARTS
    found = []
    for part in range(parts):
        kept = np.flatnonzero((part_of == part) == alone).tolist()
        try:
            value = score([predictions[place] for place in kept], [records[place] for place in kept]).value
        except AttentuneError:
            return ()
        if not math.isfinite(value):
            return ()
        found.append(-value)
    return tuple((sum(found) - one) / (parts - 1) for one in found) if alone else tuple(found)
