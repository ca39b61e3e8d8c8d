"""Ways to compute attention, one file a kernel, and `plan`, which chooses."""

from attentune.kernels.kernel import Call, Kernel, Reason, Request, Result
from attentune.kernels.layout import Layout, LayoutKind
from attentune.kernels.plan import KERNELS, Plan, plan

__all__ = ["KERNELS", "Call", "Kernel", "Layout", "LayoutKind", "Plan", "Reason", "Request", "Result", "plan"]
