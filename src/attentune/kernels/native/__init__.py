"""The compiled core of the kernel `blocked`: C++ behind torch operators, forward and backward, linear in memory."""

from attentune.kernels.native.attention import NativeResult, forward
from attentune.kernels.native.library import available, instruction_set

__all__ = ["NativeResult", "available", "forward", "instruction_set"]
