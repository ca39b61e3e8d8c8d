"""Compiles the C++ core of the kernel `blocked` while the package is built; goes on without it where it cannot."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "src/attentune/kernels/native"


class CompiledCore(BuildHookInterface):
    """Adds the compiled library to wheels, and leaves it in the source tree for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected; without a compiler the wheel is one of pure Python."""
        if self.target_name != "wheel":
            return
        core = _loaded(Path(self.root) / NATIVE / "build.py")
        library = core.library_path()
        try:
            core.build()
        except core.BuildError as error:
            library.unlink(missing_ok=True)
            print(f"attentune: warning: {error}; the kernel `blocked` will compute in Python", file=sys.stderr)  # noqa: T201
            return
        build_data["artifacts"].append(f"{NATIVE}/{library.name}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"  # the library knows nothing of Python


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("attentune_native_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
