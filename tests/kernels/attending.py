"""Operands, parameters and one call of a kernel: what the tests of mechanisms and kernels begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from attentune.kernels import KERNELS, Call, Layout, Result
from attentune.mechanisms import attention
from attentune.spec.attention import AttentionSpec
from attentune.spec.masks import Mask
from attentune.spec.mechanism import Dims
from attentune.spec.positions import Positions

SlotTensors = dict[str, list[dict[str, Tensor]]]


def sizes(spec: AttentionSpec, *, head_width: int = 4) -> Dims:
    """The sizes of `spec` in a model that gives each head `head_width` columns."""
    width = spec.heads.heads * head_width
    return spec.heads.dims(width=width, source_width=width, depth=1, bias=False, cross=False)


def parameters(spec: AttentionSpec, dims: Dims, dtype: torch.dtype = torch.float64) -> SlotTensors:
    """The declared tensors, moved away from where they begin so that every one of them matters."""
    made: SlotTensors = {}
    for slot, _, value in spec.values():
        tensors = {}
        for name, declared in value.parameters(dims).items():
            tensor = torch.zeros(declared.shape, dtype=dtype)
            declared.init(tensor)
            tensors[name] = (tensor + 0.2 * torch.randn(declared.shape, dtype=dtype)).requires_grad_()
        made.setdefault(slot, []).append(tensors)
    return made


def operands(
    dims: Dims, queries: int, keys: int | None = None, *, batch: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q [B H Q D], k [B G K D], v [B G K V], each a leaf that wants a gradient."""
    keys = queries if keys is None else keys
    shapes = (
        (batch, dims.heads, queries, dims.head_width),
        (batch, dims.groups, keys, dims.head_width),
        (batch, dims.groups, keys, dims.value_width),
    )
    q, k, v = (torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes)
    return q, k, v


def attend(
    spec: AttentionSpec | str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: Layout | None = None,
    params: SlotTensors | None = None,
    kernel: str = "reference",
    wanted: frozenset[str] = frozenset({"output"}),
) -> Result:
    """One call of a kernel; rows are plain and parameters as they begin unless told otherwise."""
    spec = attention(spec) if isinstance(spec, str) else spec
    dims = sizes(spec, head_width=v.shape[-1])
    if params is None:
        params = {}
        for slot, _, value in spec.values():
            tensors = {name: torch.zeros(p.shape, dtype=q.dtype) for name, p in value.parameters(dims).items()}
            for name, declared in value.parameters(dims).items():
                declared.init(tensors[name])
            params.setdefault(slot, []).append(tensors)
    layout = Layout.plain(q.shape[2]) if layout is None else layout
    return KERNELS[kernel].run(Call(spec, dims, params, q, k, v, layout, wanted=wanted))


def weights(spec: AttentionSpec | str, q: Tensor, k: Tensor, v: Tensor, *, layout: Layout | None = None) -> Tensor:
    """The weights [B H Q K] that the reference uses."""
    found = attend(spec, q, k, v, layout=layout, wanted=frozenset({"output", "weights"})).extra["weights"]
    assert isinstance(found, Tensor)
    return found


def grid(mask: Mask | str, length: int, *, prefix: int | None = None) -> list[str]:
    """What a mask shows over `length` positions, a line a query: `x` seen, `.` hidden."""
    mask = attention(f"heads=1, mask={mask}").mask if isinstance(mask, str) else mask
    layout = Layout.plain(length)
    if prefix is not None:
        layout = layout.with_prefix(torch.tensor([prefix]))
    seen = layout.visible(mask).expand(1, 1, length, length)[0, 0]
    return ["".join("x" if one else "." for one in row) for row in seen.tolist()]


def places(*position: int) -> Positions:
    """One row of tokens at these positions."""
    index = torch.arange(len(position))[None]
    return Positions(index=index, position=torch.tensor(position)[None])
