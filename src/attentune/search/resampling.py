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
from attentune.tasks.task import Prediction, Scores

PARTS = 20  # more of them take longer, and make the band hardly narrower: Student's quantile is 2.09 instead of 1.96


def losses_left_out(
    score: Callable[[Sequence[Prediction], Sequence[Record]], Scores],
    predictions: Sequence[Prediction],
    records: Sequence[Record],
) -> tuple[float, ...]:
    """Minus the main figure of `score` without each of `PARTS` equal parts of the records, always the same ones.

    Empty where that is not known: of a single record, or where some of the records have no score by themselves.
    """
    count = len(records)
    parts = min(PARTS, count)
    part_of = np.random.default_rng(0).permutation(count) % max(parts, 1)
    found = []
    for part in range(parts if parts > 1 else 0):
        kept = np.flatnonzero(part_of != part).tolist()
        try:
            value = score([predictions[place] for place in kept], [records[place] for place in kept]).value
        except AttentuneError:
            return ()
        if not math.isfinite(value):
            return ()
        found.append(-value)
    return tuple(found)
