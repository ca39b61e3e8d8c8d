"""Libraries that tasks use where they are installed: the extra `tasks`."""

from __future__ import annotations

import importlib
from types import ModuleType

from attentune.errors import MissingExtraError


def needed(module: str, package: str, what: str) -> ModuleType:
    """The module of a package that is no part of the core.

    Raises:
        MissingExtraError: it is not installed; `what` says what needs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(f"{what} needs {package}: pip install 'attentune[tasks]'") from None
