"""What the checks compute with: layouts, operands and parameters, all of them drawn from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import torch

from attentune.errors import SpecError
from attentune.kernels import Layout, LayoutKind
from attentune.mechanisms import attention
from attentune.shapes import Bool, Int, Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.masks import Mask
from attentune.spec.mechanism import Dims, Mechanism
from attentune.spec.positions import Positions

LENGTH = 7  # odd, and no multiple of anything that a kernel tiles by
LONG = 133  # more than a tile of 64 or 128, for kernels that have tiles
NEWEST = 3  # queries of the cached layout
CONTEXT = 5  # keys of the other sequence
BATCH = 3
PREFIX = (2, 3, 1)  # of each row, where a mask asks the layout for it
EVERYTHING = attention("heads=1").mask  # shows every key
LAYOUTS = ("plain", "padded", "packed", "cached", "cross")


def seed_of(*parts: object, seed: int) -> int:
    """A seed for one case, the same whichever cases run before it."""
    return crc32(repr(parts).encode()) ^ seed


def padding(length: int) -> Bool[Tensor, "B T"]:
    """True on real tokens: padding on the left with a hole, on the right, and a row of padding alone."""
    index = torch.arange(length)
    return torch.stack([(index >= 2) & (index != length // 2 + 1), index < length - 2, index < 0])


def documents(length: int) -> Int[Tensor, "B T"]:
    """Ids of documents: falling, with one of a single token and padding at the end, and one that comes back."""
    index = torch.arange(length)
    half = (length - 1) // 2
    short = torch.where(index < 1, 1, torch.where(index < length - 3, 0, -1))
    again = torch.where((index < 2) | (index >= half + 2), 5, 3)
    return torch.stack([torch.where(index < half, 4, 2), short, again])


def document_spans(length: int) -> Iterator[tuple[int, int, int]]:
    """Row, first token and the token after the last of every document."""
    for row, ids in enumerate(documents(length).tolist()):
        begin = 0
        for end in range(1, length + 1):
            if end == length or ids[end] != ids[begin]:
                if ids[begin] >= 0:
                    yield row, begin, end
                begin = end


def layout(name: str, mask: Mask, length: int = LENGTH, *, device: str = "cpu") -> Layout:
    """The layout called `name`, of `BATCH` rows; with prefixes where `mask` asks for them."""
    if name == "padded":
        made = Layout.padded(padding(length).to(device))
    elif name == "packed":
        made = Layout.packed(documents(length).to(device))
    elif name == "cached":
        keys = Positions.arange(length, device=device)
        made = Layout(LayoutKind.CACHED, Positions.arange(NEWEST, start=length - NEWEST, device=device), keys)
    elif name == "cross":
        made = cross_layout(length, CONTEXT, device=device)
    else:
        made = Layout.plain(length, device=device)
    return made.with_prefix(torch.tensor(PREFIX, device=device)) if asks_for_prefix(mask) else made


def cross_layout(length: int, keys: int, *, device: str = "cpu") -> Layout:
    """Queries of one sequence, keys of another of which the first rows end early."""
    index = torch.arange(keys, device=device).expand(BATCH, -1)
    ends = torch.tensor([keys - 1, keys, keys - 2], device=device)
    key = Positions(index=index, position=index, valid=index < ends[:, None])
    return Layout.cross(Positions.arange(length, device=device), key)


def asks_for_prefix(mask: Mask) -> bool:
    """Whether `mask` can only be drawn where the layout says how long each row's prefix is."""
    try:
        Layout.plain(1).visible(mask)
    except SpecError:
        return True
    return False


def operands(dims: Dims, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random q [B H Q D], k [B G K D], v [B G K V], of numbers that every dtype can hold."""
    q = torch.randn(BATCH, dims.heads, queries, dims.head_width)
    k = torch.randn(BATCH, dims.groups, keys, dims.head_width)
    v = torch.randn(BATCH, dims.groups, keys, dims.value_width)
    return rounded(q), rounded(k), rounded(v)


def rounded(tensor: Tensor) -> Tensor:
    """The same numbers as bfloat16 holds them, in float64."""
    return tensor.to(torch.bfloat16).double()


def parameters(value: Mechanism, dims: Dims) -> dict[str, Tensor]:
    """The tensors that `value` declares, moved away from where they begin so that every one of them matters."""
    made = {}
    for name, declared in value.parameters(dims).items():
        tensor = torch.zeros(declared.shape)
        declared.init(tensor)
        made[name] = rounded(tensor + 0.2 * torch.randn(declared.shape))
    return made


def slot_parameters(spec: AttentionSpec, dims: Dims) -> dict[str, list[dict[str, Tensor]]]:
    """The tensors of every value of `spec`, by slot."""
    made: dict[str, list[dict[str, Tensor]]] = {}
    for slot, _, value in spec.values():
        made.setdefault(slot, []).append(parameters(value, dims))
    return made


def shaken_by(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers that differ from `x` by up to half an eps of `dtype`, always by the same draws."""
    generator = torch.Generator().manual_seed(0)
    return x * (1 + torch.finfo(dtype).eps * (torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5))
