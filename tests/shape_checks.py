"""The run-time checks of types and shapes that the import hook of jaxtyping applies to every function of the package.

`Self` is let through: the hook decorates methods one by one, outside of their class, where it has no meaning yet.
An int may stand for a float, as for mypy.

`cheaply()` has the hook apply what is below instead of `jaxtyping.jaxtyped`. Both check the same annotations with the
same type checker; jaxtyping's own binds the signature of every call and checks the arguments twice, so that its errors
can name each axis, which made most tests take four times as long. Here a function without shapes in its annotations
needs beartype alone, and one with shapes is checked once, in a context of its own. A function that is made inside
another is checked the first times that it is made, since making its check costs more than most of them take.
`unchecked` lets a function run without checks: for what computes again and again what was checked before.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any, Self, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(
    conf=BeartypeConf(
        hint_overrides=FrozenDict({Self: object}), is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError
    )
)
thorough = jaxtyping.jaxtyped
own_axes = thorough("context")  # axes of one call; it holds nothing itself, so that one serves every call
MADE_CHECKED = 5
_made: Counter[CodeType] = Counter()  # how often each function inside another was made
_paused: list[None] = []  # one for each `unchecked` call that has not come back


def cheaply() -> None:
    """From now on, modules that the hook imports are checked by `jaxtyped` below."""
    jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment]


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, and all that it calls, without run-time checks."""

    @functools.wraps(function)
    def without(*args: Any, **kwargs: Any) -> Any:
        _paused.append(None)
        try:
            return function(*args, **kwargs)
        finally:
            _paused.pop()

    return without


def jaxtyped(held: Any = None, *, typechecker: Any) -> Any:
    """`held`, a function, method, property or dataclass, with the types of what it takes and gives back checked."""
    if held is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(held):
        if dataclasses.is_dataclass(held) and "__init__" in vars(held):
            held.__init__ = _checked(held.__init__, typechecker)  # type: ignore[misc]
        return held
    if isinstance(held, classmethod | staticmethod):
        return type(held)(_checked(held.__func__, typechecker))
    if isinstance(held, property):
        return property(*(_checked(part, typechecker) if part else None for part in (held.fget, held.fset, held.fdel)))
    return _checked(held, typechecker) if inspect.isfunction(held) else thorough(held, typechecker=typechecker)


def _checked(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    if "<locals>" in function.__qualname__:
        _made[function.__code__] += 1
        if _made[function.__code__] > MADE_CHECKED:
            return function
    hints = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
    shaped = any(map(_has_shape, hints.values()))
    if shaped and (inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)):
        return thorough(function, typechecker=typechecker)  # type: ignore[no-any-return]
    function.__annotations__ = hints
    typed = typechecker(function)

    @functools.wraps(function)
    def with_types(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if _paused else typed(*args, **kwargs)

    @functools.wraps(function)
    def with_shapes(*args: Any, **kwargs: Any) -> Any:
        if _paused:
            return function(*args, **kwargs)
        with own_axes:
            return typed(*args, **kwargs)

    return with_shapes if shaped else with_types


def _resolved(hint: Any, function: Callable[..., Any]) -> Any:
    """What the text of an annotation means; anything where it has no meaning yet, such as the class being made."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except Exception:
        return Any


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, get_args(hint)))
