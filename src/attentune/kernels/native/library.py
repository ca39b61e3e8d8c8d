"""The compiled core as Python sees it: whether it is there, and its plain C interface through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from attentune.errors import KernelError
from attentune.kernels.kernel import Reason
from attentune.kernels.native.build import REBUILD, library_path, source_hash

Function = Literal["forward", "backward", "statistics"]
PART = "compiled core"


class Step(ctypes.Structure):
    """`Step` of source/problem.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("kind", "constant", "first", "length", "batch_stride", "head_stride")),
        ("cap", ctypes.c_double),
        ("values", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
    )


class Operand(ctypes.Structure):
    """`Operand` of source/problem.h: a tensor [B H T ...] by its address and three strides."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "head", "token")),
    )


class Problem(ctypes.Structure):
    """`Problem` of source/problem.h."""

    _fields_ = (
        *((n, ctypes.c_int64) for n in ("batch", "heads", "groups", "queries", "keys", "head_width", "value_width")),
        *((n, Operand) for n in ("q", "k", "v", "output", "lse", "d_output", "d_lse", "dq", "dk", "dv")),
        *((n, Operand) for n in ("column_mass", "entropy", "top_weight", "top_key")),
        *((n, ctypes.c_int64) for n in ("top", "wants_lse")),
        ("scale", ctypes.c_double),
        *((n, ctypes.c_int64) for n in ("kind", "steps", "table_rows", "position_rows")),
        ("step", ctypes.POINTER(Step)),
        *((n, ctypes.c_void_p) for n in ("extra_logit", "start", "key_tile", "pattern", "patterns")),
        *((n, ctypes.c_void_p) for n in ("query_position", "key_position")),
        ("dropout", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        *((n, ctypes.c_int64) for n in ("threads", "segments", "doubles", "bfloat16")),
    )


def available() -> Reason | None:
    """Why the core cannot be used on this machine; None where it can."""
    found = _load()
    return found if isinstance(found, Reason) else None


def instruction_set() -> str:
    """What the core computes with: avx512, avx2 or plain; `none` where ATTENTUNE_ISA names one this machine lacks."""
    name: bytes = _library().attentune_instruction_set()
    return name.decode()


def segments(problem: Problem) -> int:
    """Parts into which the backward pass cuts the queries of one batch row and group, so that all threads have work."""
    library = _library()
    library.attentune_segments.restype = ctypes.c_int64
    return int(library.attentune_segments(ctypes.byref(problem)))


def call(function: Function, problem: Problem) -> None:
    """Run one of the core's functions on torch's number of threads."""
    problem.threads = torch.get_num_threads()
    code = getattr(_library(), f"attentune_{function}")(ctypes.byref(problem))
    if code == 1:
        raise KernelError("blocked: not enough memory for the tiles of this attention; shorten the row or the batch")
    if code == 3:
        raise KernelError("ATTENTUNE_ISA names an instruction set that this machine lacks; use avx512, avx2 or plain")
    if code:
        raise KernelError(f"blocked: the compiled core refused the call (code {code})")


def _library() -> ctypes.CDLL:
    found = _load()
    if isinstance(found, Reason):
        raise KernelError(f"blocked: {found}")
    return found


@cache
def _load() -> ctypes.CDLL | Reason:
    path = library_path()
    if not path.is_file():
        rule = "no C++ compiler was found when attentune was installed, or it failed; install g++ or clang++, then run "
        return Reason(PART, rule + REBUILD)
    try:
        library = ctypes.CDLL(str(path))
        library.attentune_source.restype = library.attentune_instruction_set.restype = ctypes.c_char_p
        built: bytes = library.attentune_source()
    except (OSError, AttributeError) as error:
        return Reason(PART, f"{path.name} does not load ({error}); run {REBUILD}")
    source = Path(__file__).parent / "source"
    if source.is_dir() and built.decode() != source_hash(source):
        return Reason(PART, f"{path.name} was built from other source than this; run {REBUILD}")
    return library
