"""Finding mechanisms: our own by file name, others by entry point or by a file the user names."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import entry_points
from inspect import isabstract, isclass
from pathlib import Path
from types import ModuleType

from attentune.errors import SpecError
from attentune.mechanisms._named import registers_by_name
from attentune.spec.mechanism import Mechanism
from attentune.spec.registry import Registry

ENTRY_POINTS = "attentune.mechanisms"


def discover(path: Iterable[str], package: str) -> Registry:
    """A registry of the mechanisms in the files of `path` and in installed packages' entry points."""
    registry = Registry()
    for found in pkgutil.iter_modules(path):
        if not found.name.startswith("_"):
            value = _defined(importlib.import_module(f"{package}.{found.name}"))
            if [v.model_fields["kind"].default for v in value] != [found.name]:
                raise SpecError(f"mechanisms/{found.name}.py must define exactly one mechanism, of kind {found.name!r}")
            registry.register(value[0])
    for entry in entry_points(group=ENTRY_POINTS):
        loaded = entry.load()
        if not isclass(loaded):
            continue  # a function, such as a predicate, has registered itself
        if not issubclass(loaded, Mechanism):
            raise SpecError(f"entry point {entry.name!r} names the class {loaded.__name__}, which is no mechanism")
        registry.register(loaded)
    return registry


def load_plugin(file: str | Path, registry: Registry) -> list[type[Mechanism]]:
    """Register the mechanisms that the Python file `file` defines. It is run: only name files you trust.

    A file may hold nothing but functions for `mask=predicate(...)` or `similarity=function(...)`, which register
    themselves.

    Raises:
        SpecError: there is no such Python file, it raises when it is run, or it defines nothing that can be used.
    """
    path = Path(file)
    name = f"attentune_plugin_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None or not path.is_file():
        raise SpecError(f"plugin {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SpecError(f"plugin {_raised(error, path)}") from error
    values = _defined(module)
    if not values and not registers_by_name(name):
        del sys.modules[name]
        raise SpecError(
            f"plugin {str(path)!r} defines no mechanism (a class that fills one slot and is not abstract) and "
            "registers no function by name"
        )
    return [registry.register(value) for value in values]


def _raised(error: BaseException, path: Path) -> str:
    """`FILE, line N: TypeError: what it says`; the line is the last one of the plugin's own on the way to the error."""
    if isinstance(error, SyntaxError):
        file, line, says = error.filename or str(path), error.lineno, error.msg
    else:
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        file, line, says = str(path), own[-1] if own else None, str(error)
    where = repr(file) if line is None else f"{file!r}, line {line}"
    said = next(iter(says.strip().splitlines()), "")
    return f"{where}: {type(error).__name__}{f': {said}' if said else ''}"


def _defined(module: ModuleType) -> list[type[Mechanism]]:
    return [
        value
        for value in vars(module).values()
        if isclass(value)
        and issubclass(value, Mechanism)
        and not isabstract(value)
        and value.__module__ == module.__name__
    ]
