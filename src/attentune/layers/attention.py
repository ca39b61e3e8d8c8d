"""The attention module: it owns the parameters that the spec's values declare, and follows the dataflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from torch import nn

from attentune.errors import KernelError, SpecError
from attentune.kernels.kernel import Call, Request, Result, are_short_rows
from attentune.kernels.layout import Layout, LayoutKind
from attentune.kernels.plan import KERNELS, Plan, plan
from attentune.layers.state import LayerState
from attentune.shapes import Float, Tensor
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Dims, Mechanism, Params
from attentune.spec.positions import Positions
from attentune.spec.slots import CarriedScore, CarriedValue, OperandScore, OutputCombine, Rotation
from attentune.spec.text import format_value

OUTPUT = frozenset({"output"})
DECODE, CACHED = -1, 2048  # the bucket of one query over a cache, planned for a cache of so many keys
ONE_PIECE = (LayoutKind.PLAIN, LayoutKind.PADDED, LayoutKind.PACKED, LayoutKind.CROSS)  # rows that come whole
FEW = 16  # queries of cross-attention that are a step of decoding, of one text or of several side by side
SENTENCES = -2  # the bucket of many short rows, planned for so many of so many tokens:
ROWS, TOKENS = 64, 32
BUCKETS = (256, 2048, 16384)  # lengths up to which one choice of kernel holds; beyond the last, its own


@dataclass
class Carry:
    """What one layer hands to the next.

    `scores`: queries [B H Q D*l] and keys [B G K D*l] of the layers below (residual scores).
    `values`: the values [B G K V] of an earlier layer (value residual).
    """

    scores: tuple[Tensor, Tensor] | None = None
    values: Tensor | None = None


@final
class Values(nn.Module):
    """The parameters of one value of the spec, under the names that it declared."""

    def __init__(self, value: Mechanism, dims: Dims) -> None:
        super().__init__()
        for name, declared in value.parameters(dims).items():
            parameter = nn.Parameter(torch.empty(declared.shape))
            with torch.no_grad():
                declared.init(parameter)
            if not declared.weight_decay:
                parameter.weight_decay = False  # type: ignore[attr-defined]
            self.register_parameter(name, parameter)

    @property
    def params(self) -> Params:
        return self._parameters  # type: ignore[return-value]


@dataclass
class AttentionOutput:
    """What attention gives: its output, what the next layer builds on, what else was wanted, auxiliary losses."""

    y: Float[Tensor, "B Q E"]
    carry: Carry | None = None
    extra: dict[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)


@final
class Attention(nn.Module):
    """`spec` at a model width. Parameters are named `<slot>.<i>.<name>`.

    `bind` chooses the kernels; it is called when the module is made, and again when it is moved to
    another device or dtype.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        *,
        width: int,
        source_width: int | None = None,
        depth: int = 1,
        bias: bool = False,
        dropout: float = 0.0,
        cross: bool = False,
        layer: int = 0,
        shared: dict[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if cross:
            spec.check_cross()
        self.spec, self.dropout, self.cross = spec, dropout, cross
        dims = spec.heads.dims(width=width, source_width=source_width or width, depth=depth, bias=bias, cross=cross)
        self.dims = replace(dims, layer=layer)
        self.held: dict[str, list[Values]] = {}
        for slot, place, value in spec.values():
            values = shared[slot] if shared is not None and slot in shared else Values(value, self.dims)
            assert isinstance(values, Values)
            if place == 0:
                self.add_module(slot, nn.ModuleDict())
            getattr(self, slot)[str(place)] = values
            self.held.setdefault(slot, []).append(values)
        self.penalised = [held for held in spec.values() if type(held[2]).losses is not Mechanism.losses]
        self.entry, self.turned = spec.heads.rotated(self.dims)
        wide = {value.wide(self.dims) for value in spec.combine if isinstance(value, OutputCombine)}
        wide.discard(self.dims.value_width)
        if len(wide) > 1:
            raise SpecError(f"combine: values of widths {', '.join(map(str, sorted(wide)))} at once")
        self.summed = replace(self.dims, value_width=wide.pop()) if wide else self.dims  # as kernels see them
        if isinstance(spec.position, Rotation):
            spec.position.table(self.turned, Positions.arange(1), torch.float32)  # refuses widths that it cannot turn
        self.kernel = "auto"
        self.plans: dict[tuple[LayoutKind, bool, bool, int], Plan] = {}
        self.asked: dict[tuple[Request, frozenset[str]], Plan] = {}  # for wanted outputs, made when first asked for
        self.bind()

    def bind(
        self, *, kernel: str = "auto", device: str = "cpu", dtype: torch.dtype = torch.float32, batch: int = 1
    ) -> None:
        """Choose a kernel for every layout, with and without gradients, over buckets of length.

        A kernel asked for by name must support everything that this module may be asked for while it trains
        and predicts on full rows; where only other layouts are beyond it, they are planned by `auto`.
        """
        self.kernel, self.device, self.dtype = kernel, device, dtype
        self.plans, self.asked = {}, {}
        own = LayoutKind.CROSS if self.cross else LayoutKind.PLAIN
        for layout in LayoutKind:
            if self.cross != (layout is LayoutKind.CROSS):
                continue
            for needs_grad in (False, True):
                for drop in (False, True) if self.dropout else (False,):
                    for bucket in _buckets(layout):
                        length = BUCKETS[min(bucket, len(BUCKETS) - 1)] * (2 if bucket == len(BUCKETS) else 1)
                        length = TOKENS if bucket == SENTENCES else length
                        request = Request(
                            spec=self.spec,
                            dims=self.summed,
                            batch=max(batch, ROWS) if bucket == SENTENCES else batch,
                            query_length=1 if bucket == DECODE else length,
                            key_length=CACHED if bucket == DECODE else length,
                            layout=layout,
                            device=device,
                            dtype=dtype,
                            needs_grad=needs_grad,
                            dropout=self.dropout if drop else 0.0,
                        )
                        name = kernel
                        if kernel in KERNELS and layout is not own and KERNELS[kernel].supports(request):
                            name = "auto"
                        if kernel == "flex" and device == "cpu" and needs_grad:
                            name = "auto"  # forward only there: training is planned apart, and `explain` shows it
                        self.plans[layout, needs_grad, drop, bucket] = plan(request, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to()`, `.cuda()` and `.double()` call: kernels are chosen anew where device or dtype changed."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        held = next(self.parameters(), None)
        if held is not None and (held.device.type, held.dtype) != (self.device, self.dtype):
            self.bind(kernel=self.kernel, device=held.device.type, dtype=held.dtype)
        return self

    def forward(
        self,
        x: Float[Tensor, "B Q E"],
        layout: Layout,
        *,
        source: Float[Tensor, "B K F"] | None = None,
        state: LayerState | None = None,
        carry: Carry | None = None,
        wanted: frozenset[str] = OUTPUT,
    ) -> AttentionOutput:
        """Attention of `x` to itself, to a remembered or cached past, or to `source`.

        `layout` tells the positions of the queries of `x` and of all keys, the past included.
        """
        spec, dims = self.spec, self.dims
        if x.dim() != 3 or x.shape[-1] != dims.width:
            raise SpecError(f"attention takes x [batch, tokens, {dims.width}], got {tuple(x.shape)}")
        if layout.query.index.shape[-1] != x.shape[1]:
            raise SpecError(f"the layout tells {layout.query.index.shape[-1]} positions, and x has {x.shape[1]} tokens")
        params = {slot: [values.params for values in held] for slot, held in self.held.items()}
        heads = params["heads"][0]

        # project
        cached = state is not None and self.cross and source is None
        q, entries = spec.heads.project(heads, dims, x, source if source is not None else (x if cached else None))
        projected = q
        if cached:
            assert state is not None and state.cross is not None
            entries = dict(state.cross)
        elif state is not None and self.cross:
            # As projected: what changes keys below is done again at every step. Padding holds zeros from here on.
            valid = layout.key.valid
            if valid is not None:
                entries = {name: entry.masked_fill(~valid[:, None, :, None], 0.0) for name, entry in entries.items()}
            state.cross = dict(entries)
        # normalise q and k
        for score, own in zip(spec.scores, params.get("scores", ()), strict=True):
            if isinstance(score, OperandScore):
                q, entries["k"] = score.operands(own, dims, q, entries["k"])
        # mix values across layers
        handed = Carry()
        for value, own in zip(spec.combine, params.get("combine", ()), strict=True):
            if isinstance(value, CarriedValue):
                entries["v"], handed.values = value.mix(own, entries["v"], None if carry is None else carry.values)
        # rotate
        if isinstance(spec.position, Rotation):
            q, entries[self.entry] = self._rotate(spec.position, q, entries[self.entry], layout)
        # remember
        if state is not None and state.cache is not None and not self.cross:
            entries = state.cache.append(entries)
        k, v = spec.heads.expand(heads, dims, entries)
        # residual scores
        for score, own in zip(spec.scores, params.get("scores", ()), strict=True):
            if isinstance(score, CarriedScore):
                q, k = handed.scores = score.columns(own, q, k, None if carry is None else carry.scores)
        for value in spec.combine:
            if isinstance(value, OutputCombine):
                v = value.values(dims, v)
        # attend
        drop = self.dropout if self.training else 0.0
        result = self._run(Call(spec, self.summed, params, q, k, v, layout, drop, wanted))
        # combine, project back
        o = result.output
        for value, own in zip(spec.combine, params.get("combine", ()), strict=True):
            if isinstance(value, OutputCombine):
                o = value.combine(own, dims, o, x, projected)
        return AttentionOutput(spec.heads.output(heads, dims, o), handed, result.extra, self._losses(params))

    def _losses(self, params: dict[str, list[Params]]) -> dict[str, Tensor]:
        """What the values add to the training loss, by the name of the value and of the loss."""
        return {
            f"{value.kind}.{name}": loss
            for slot, place, value in self.penalised
            for name, loss in value.losses(params[slot][place], self.dims).items()
        }

    def _rotate(self, rotation: Rotation, q: Tensor, key: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Turn the last columns of q, and the newest keys: as many as there are key entries to turn."""
        width = self.turned
        queries = layout.once(
            ("turn q", rotation, width, q.dtype), lambda: rotation.table(width, layout.query, q.dtype)
        )
        if layout.key is layout.query:
            keys = queries
        else:
            count = key.shape[2]
            keys = layout.once(
                ("turn k", rotation, width, count, q.dtype),
                lambda: rotation.table(width, layout.key.map(lambda tensor: tensor[:, -count:]), q.dtype),
            )
        still = q.shape[-1] - width
        turned = rotation.rotate(q[..., still:] if still else q, queries)
        return (torch.cat([q[..., :still], turned], -1) if still else turned), rotation.rotate(key, keys)

    def _run(self, call: Call) -> Result:
        if call.q.device.type != self.device:
            raise KernelError(
                f"the kernels were chosen for {self.device}, the input is on {call.q.device.type}: "
                "call bind(device=...)"
            )
        bucket = sum(call.q.shape[2] > longest for longest in BUCKETS)
        few = {LayoutKind.CACHED: 1, LayoutKind.CROSS: FEW, LayoutKind.TREE: call.q.shape[2]}
        if call.layout.kind in few and call.q.shape[2] <= few[call.layout.kind]:
            bucket = DECODE
        if call.layout.kind in ONE_PIECE and are_short_rows(call.q.shape[0], call.q.shape[2], call.k.shape[2]):
            bucket = SENTENCES
        bound = self.plans[call.layout.kind, torch.is_grad_enabled(), call.dropout > 0, bucket]
        if call.wanted == OUTPUT:
            return bound.kernel.run(call)
        if torch.compiler.is_compiling():  # planning reads the spec, which is no part of a graph
            return KERNELS["reference"].run(call)
        key = (bound.request, call.wanted)
        if key not in self.asked:
            self.asked[key] = plan(replace(bound.request, wanted=call.wanted))
        return self.asked[key].kernel.run(call)

    def check_decoding(self, known: int, added: int, next_position: Callable[[], int]) -> None:
        """Raise where this attention cannot be computed piece by piece, `added` tokens after `known` ones.

        `next_position` gives the least position of the next tokens in any row; it is only called where it matters.
        """
        ahead = self.spec.mask.lookahead
        if ahead is None:
            raise SpecError(
                f"mask={format_value(self.spec.mask)} shows later keys, so it cannot be decoded step by step; "
                "compute whole rows instead"
            )
        steady = self.spec.position.steady_length if isinstance(self.spec.position, Rotation) else None
        if steady is not None and known and known + added > steady:
            raise SpecError(
                "the rotation turns keys by the length of the row, so that it cannot be decoded step by step "
                f"beyond {steady} tokens; compute whole rows instead"
            )
        held = added if known == 0 else next_position() if ahead else 0
        if held < ahead:
            raise SpecError(
                f"the mask shows the first {ahead} keys to everyone: "
                f"the prompt must hold at least {ahead} tokens in each row, got {held}"
            )


def _buckets(layout: LayoutKind) -> list[int]:
    """The buckets of length that a layout is planned for; the branches of a tree grow by a token at a time."""
    if layout is LayoutKind.TREE:
        return [DECODE]
    by_length = list(range(len(BUCKETS) + 1))
    decoding = [DECODE] if layout in (LayoutKind.CACHED, LayoutKind.CROSS) else []
    return [*([SENTENCES] if layout in ONE_PIECE else []), *decoding, *by_length]
