"""Functions that users register by name, so that specs can keep the name and never the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from attentune.errors import SpecError, near

F = TypeVar("F", bound=Callable[..., Any])

_all: list[NamedFunctions[Any]] = []


class NamedFunctions(Generic[F]):
    """What is registered for one mechanism; `kind` and `what` are its words in errors."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind, self.what = kind, what
        self.held: dict[str, F] = {}
        _all.append(self)

    def __getitem__(self, name: str) -> F:
        return self.held[name]

    def register(self, name: str, function: F) -> F:
        """Keep `function` under `name`. Defining the same one anew, as notebooks do, replaces it."""
        held = self.held.get(name)
        if held is not None and _home(held) != _home(function):
            raise SpecError(f"{self.kind} {name!r} is taken by {_home(held)}")
        self.held[name] = function
        return function

    def check_name(self, name: str) -> None:
        """Raise `SpecError` unless a function can be registered under `name`."""
        if not name or not isinstance(name, str):
            raise SpecError(f"a {self.kind} is registered under a name, got {name!r}")

    def check_known(self, name: str) -> str:
        """`name`; `ValueError` where nothing is registered under it."""
        if name not in self.held:
            hint = near(name, self.held) if self.held else "none is registered"
            raise ValueError(
                f"no {self.what} is registered as {name!r}; {hint} (register it first, or name its file as plugin)"
            )
        return name


def registers_by_name(module: str) -> bool:
    """Whether a function of `module` is registered for any mechanism."""
    return any(getattr(function, "__module__", None) == module for named in _all for function in named.held.values())


def _home(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
