"""Texts as counts of the words or letters they hold, weighed by how rare these are (Spärck Jones, 1972)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from attentune.data.encoding import DataWarning
from attentune.tasks._extra import needed


class Table(NamedTuple):
    """A vectorizer of scikit-learn, and the sparse rows of length 1 of the texts that it was fitted to."""

    vectors: Any
    rows: Any


def tf_idf(texts: Sequence[str], **choice: Any) -> Table | None:
    """The table of `texts`, with the options of a `TfidfVectorizer`; None where they hold nothing that it counts.

    Then a `DataWarning` says that a baseline is left out.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    features = needed("sklearn.feature_extraction.text", "scikit-learn", "a baseline by what texts have in common")
    vectors = features.TfidfVectorizer(sublinear_tf=True, **choice)
    try:
        return Table(vectors, vectors.fit_transform(texts))
    except ValueError as error:
        if "empty vocabulary" not in str(error) and "no terms remain" not in str(error):
            raise
        warnings.warn(
            "the texts hold no words that could be compared: a baseline is left out", DataWarning, stacklevel=2
        )
        return None
