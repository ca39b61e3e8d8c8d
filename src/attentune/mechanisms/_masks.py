"""What several masks share."""

from __future__ import annotations


def check_symmetric(window: int) -> None:
    """Raise `ValueError` where `window` keys cannot lie around a query, as many before it as after it."""
    if window % 2 == 0:
        raise ValueError(
            f"a symmetric window is odd (the query's own key, and as many before as after), got {window}: "
            f"write {window + 1} for {window // 2} keys on either side"
        )
