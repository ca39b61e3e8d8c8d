"""The embedded text: Python's own documentation topics, which every Python carries."""

from __future__ import annotations

from pydoc_data.topics import topics

NAME = "Python documentation topics"


def builtin_text() -> str:
    """The topics of `help()`, sorted by name and joined into one text of about 465,000 characters.

    The text is part of the running Python, so it differs a little from one Python version to another: losses
    measured on it compare only within one version.
    """
    return "\n\n\n".join(topics[name].strip().replace("\r\n", "\n") for name in sorted(topics)) + "\n"
