"""Compiles the core: what `python -m attentune.kernels.native` and installing the package do.

Needs the standard library alone: the build of a wheel runs it before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REBUILD = "`python -m attentune.kernels.native`"
HERE = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-w")
X86_SETS = {
    "plain": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
}


class BuildError(Exception):
    """The core could not be compiled; the message says why."""


def library_path() -> Path:
    """Where the compiled library lies: beside this file."""
    return HERE / ("_native.dylib" if sys.platform == "darwin" else "_native.so")


def source_hash(source: Path) -> str:
    """A fingerprint of the source, which the library carries too: so that a stale one is known."""
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, or the first that is found."""
    asked = shlex.split(os.environ.get("CXX", ""))
    if asked:
        return asked
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise BuildError(f"no C++ compiler was found (looked for $CXX, {', '.join(COMPILERS)})")


def build(target: Path | None = None) -> Path:
    """Compile the core to `target` (beside this file unless named), all or nothing; raises BuildError."""
    target = library_path() if target is None else target
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / target.name
        try:
            _compile(compiler(), made, ["-fopenmp"])
        except BuildError:
            _compile(compiler(), made, [])  # a compiler without OpenMP: one thread, but everything else
        staged = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(made, staged)
        staged.replace(target)
    return target


def _compile(command: list[str], made: Path, threads: list[str]) -> None:
    source, folder = HERE / "source", made.parent
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sets = X86_SETS if x86 else {"plain": ()}
    flags = [*FLAGS, *threads, *(["-DATTENTUNE_X86"] if x86 else [])]
    jobs = [
        [
            *command,
            *flags,
            *more,
            f"-DISA={name}",
            "-c",
            str(source / "instruction_set.cpp"),
            "-o",
            f"{folder}/{name}.o",
        ]
        for name, more in sets.items()
    ]
    label = f'-DATTENTUNE_SOURCE="{source_hash(source)}"'
    jobs.append([*command, *flags, label, "-c", str(source / "interface.cpp"), "-o", f"{folder}/interface.o"])
    with ThreadPoolExecutor() as pool:
        list(pool.map(_run, jobs))
    objects = [job[-1] for job in jobs]
    _run([*command, "-shared", *threads, *objects, "-o", str(made)])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        )
        raise BuildError(f"{command[0]} failed: {lines[0].strip()}")
