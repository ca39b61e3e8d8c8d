"""What is measured: cells of masks, scores, lengths, passes and dtypes, and the settings that all cells share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field

from attentune.errors import SpecError, near
from attentune.kernels import LayoutKind, Request
from attentune.mechanisms import attention
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Dims
from attentune.spec.value import Frozen

Pass = Literal["forward", "forward+backward", "decode", "statistics"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
PASSES: tuple[str, ...] = get_args(Pass)
DTYPES: tuple[str, ...] = get_args(Dtype)
LENGTHS = (512, 2048, 8192, 32768)
BLOCK = 64  # tokens of a block of BigBird
CAP = 20.0  # of the soft cap
MASKS = {
    "full": "full",
    "causal": "causal",
    "window": "causal & window({window})",
    "sinks": "causal & (window({window}) | sink(4))",
    "packed": "causal",  # several documents in a row
    "prefix": "causal | prefix({quarter})",
    "bigbird": (
        f"block_window(3, {BLOCK}) | global_tokens({2 * BLOCK}) | random_blocks(3, block={BLOCK}, length={{length}})"
    ),
    "symmetric": "window({odd}, symmetric=true)",  # the only window that Longformer's attention has
}
SCORES = {"none": "", "alibi": "position=alibi", "soft_cap": f"scores=soft_cap({CAP:g})", "t5": "position=t5"}
Count = Annotated[int, Field(ge=1)]


class Setting(Frozen):
    """What every cell of one table has in common; figures of different settings are never put side by side."""

    heads: Count = 8
    head_width: Count = 64
    batch: Count = 1
    window: Count = 256  # visible keys, the query's own included; the symmetric window shows the next odd number
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Count = 1
    rounds: Count = 7  # of each contestant, fewer where one takes long
    limit_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0  # of one call
    limit_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 12.0  # beside the operands
    peers: tuple[str, ...] = ()  # names, in the order of the table
    kernels: tuple[str, ...] = ()  # ours; the one that `auto` picks is measured in any case


@dataclass(frozen=True)
class Cell:
    """One question: this mask with these scores, this long, in this pass and dtype. Errors: `SpecError`."""

    mask: str
    scores: str
    length: int
    pass_: str
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for what, name, known in (
            ("mask", self.mask, MASKS),
            ("scores", self.scores, SCORES),
            ("pass", self.pass_, PASSES),
            ("dtype", self.dtype, DTYPES),
        ):
            if name not in known:
                raise SpecError(f"the benchmark has no {what} {name!r}; {near(name, known)}")
        if self.length < 1:
            raise SpecError(f"a row holds at least one token, got length={self.length}")

    def __str__(self) -> str:
        return f"{self.mask}-{self.scores}-{self.length}-{self.pass_}-{self.dtype}"

    def as_data(self) -> dict[str, Any]:
        """Plain data, which `Cell.of` reads back."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}

    @staticmethod
    def of(data: dict[str, Any]) -> Cell:
        """From plain data."""
        return Cell(data["mask"], data["scores"], data["length"], data["pass"], data["dtype"])


@dataclass(frozen=True)
class Case:
    """A cell at one setting: everything that is known without any tensor."""

    cell: Cell
    setting: Setting

    @property
    def decodes(self) -> bool:
        """One query behind a cache of `length` keys, its own included."""
        return self.cell.pass_ == "decode"

    @property
    def backward(self) -> bool:
        return self.cell.pass_ == "forward+backward"

    @property
    def statistics(self) -> bool:
        """Column mass and entropy are wanted beside the output."""
        return self.cell.pass_ == "statistics"

    @property
    def queries(self) -> int:
        return 1 if self.decodes else self.cell.length

    @property
    def symmetric_window(self) -> int:
        """Keys that the symmetric window shows: an odd number."""
        return self.setting.window + 1 - self.setting.window % 2

    @property
    def element_bytes(self) -> int:
        """Of one number of the cell's dtype."""
        return torch.finfo(self.dtype).bits // 8

    @property
    def pair_count(self) -> int:
        """Pairs of one head of one row, hidden ones included."""
        return self.queries * self.cell.length

    @cached_property
    def dtype(self) -> torch.dtype:
        found = getattr(torch, self.cell.dtype)
        assert isinstance(found, torch.dtype)
        return found

    @cached_property
    def spec(self) -> AttentionSpec:
        """The attention that the cell asks for."""
        cell, setting = self.cell, self.setting
        mask = MASKS[cell.mask].format(
            window=setting.window, odd=self.symmetric_window, quarter=max(cell.length // 4, 1), length=cell.length
        )
        parts = [f"heads={setting.heads}", f"mask={mask}", SCORES[cell.scores]]
        made = attention(", ".join(part for part in parts if part))
        if cell.scores == "t5" and made.mask.lookahead != 0:
            return attention(f"{made}".replace("position=t5", "position=t5(bidirectional=true)"))
        return made

    @cached_property
    def dims(self) -> Dims:
        width = self.setting.heads * self.setting.head_width
        return self.spec.heads.dims(width=width, source_width=width, depth=1, bias=False, cross=False)

    @property
    def layout_kind(self) -> LayoutKind:
        if self.decodes:
            return LayoutKind.CACHED
        return LayoutKind.PACKED if self.cell.mask == "packed" else LayoutKind.PLAIN

    @property
    def request(self) -> Request:
        """What our kernels are asked."""
        extra = {"column_mass", "entropy"} if self.statistics else set()
        return Request(
            spec=self.spec,
            dims=self.dims,
            batch=self.setting.batch,
            query_length=self.queries,
            key_length=self.cell.length,
            layout=self.layout_kind,
            device=self.setting.device,
            dtype=self.dtype,
            needs_grad=self.backward,
            wanted=frozenset({"output", *extra}),
        )


# Each answers one question: the kernel's overhead, causal and windowed rows at 8k and 32k, every other mask and score
# at 8k, training at three lengths (its memory must grow with the length, not with its square), decoding, statistics.
CORE = tuple(
    Cell(*cell)
    for cell in (
        ("full", "none", 512, "forward"),
        ("causal", "none", 512, "forward"),
        ("causal", "none", 8192, "forward"),
        ("causal", "none", 32768, "forward"),
        ("window", "none", 8192, "forward"),
        ("window", "none", 32768, "forward"),
        ("sinks", "none", 8192, "forward"),
        ("packed", "none", 8192, "forward"),
        ("prefix", "none", 8192, "forward"),
        ("bigbird", "none", 8192, "forward"),
        ("symmetric", "none", 8192, "forward"),
        ("causal", "alibi", 8192, "forward"),
        ("window", "alibi", 8192, "forward"),
        ("window", "soft_cap", 8192, "forward"),
        ("window", "t5", 8192, "forward"),
        ("causal", "none", 8192, "forward+backward"),
        ("causal", "none", 32768, "forward+backward"),
        ("window", "none", 8192, "forward+backward"),
        ("window", "none", 16384, "forward+backward"),
        ("window", "none", 32768, "forward+backward"),
        ("packed", "none", 8192, "forward+backward"),
        ("window", "t5", 8192, "forward+backward"),
        ("causal", "none", 8192, "decode"),
        ("window", "none", 8192, "statistics"),
    )
)


def grid(
    *,
    masks: Iterable[str] = MASKS,
    scores: Iterable[str] = SCORES,
    lengths: Iterable[int] = LENGTHS,
    passes: Iterable[str] = PASSES,
    dtypes: Iterable[str] = ("float32",),
) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """Every combination that means anything, short rows first, and a line on each that does not.

    A mask that shows all later keys cannot be decoded token by token.
    """
    cells: list[Cell] = []
    left_out: dict[str, None] = {}
    for length, pass_, mask, score, dtype in product(lengths, passes, masks, scores, dtypes):
        cell = Cell(mask, score, length, pass_, dtype)
        if pass_ == "decode" and Case(replace(cell, scores="none"), Setting()).spec.mask.lookahead is None:
            left_out[f"{mask}, decode: left out, since its queries see later keys"] = None
        else:
            cells.append(cell)
    return tuple(dict.fromkeys(cells)), tuple(left_out)
