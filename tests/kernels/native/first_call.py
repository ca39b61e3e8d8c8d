"""Whether the first attention of a process imports a compiler. Run by test_operators.py."""

from __future__ import annotations

import sys

import torch

from attentune.kernels import KERNELS, Call, Layout
from attentune.mechanisms import attention

spec = attention("heads=2, mask=causal & window(3)")
dims = spec.heads.dims(width=8, source_width=8, depth=1, bias=False, cross=False)
q, k, v = (torch.randn(1, 2, 9, 4).requires_grad_() for _ in range(3))
KERNELS["blocked"].run(Call(spec, dims, {}, q, k, v, Layout.plain(9))).output.sum().backward()
with torch.no_grad():
    KERNELS["blocked"].run(Call(spec, dims, {}, q, k, v, Layout.plain(9), wanted=frozenset({"output", "column_mass"})))
print(sorted(name for name in sys.modules if name in ("torch._dynamo", "torch._inductor")))
