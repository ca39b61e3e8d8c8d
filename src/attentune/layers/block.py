"""One layer of a model: attention, what runs beside it, the feed-forward network, and their norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import nn

from attentune.kernels.layout import Layout, LayoutKind
from attentune.layers.attention import OUTPUT, Attention, AttentionOutput, Carry, Values
from attentune.layers.dropout import dropout
from attentune.layers.feed_forward import FeedForward
from attentune.layers.norm import make_norm
from attentune.layers.state import LayerState
from attentune.shapes import Float, Tensor
from attentune.spec.model import LayerSpec, ModelSpec

CROSS = "cross."  # before the name of a wanted output: that of cross-attention


@final
class Block(nn.Module):
    """f is attention, then cross-attention, then the network; each with its residual.

    pre-norm:   x + f(norm(x))
    post-norm:  norm(x + f(x))
    """

    def __init__(self, layer: LayerSpec, model: ModelSpec, *, index: int = 0, shared: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layer, self.pre, self.dropout = layer, model.norm_placement == "pre", model.dropout
        self.attention: Attention | None = None
        if layer.attention is not None:
            self.attention = Attention(
                layer.attention,
                width=model.width,
                depth=model.depth,
                bias=model.bias,
                dropout=model.attention_dropout,
                layer=index,
                shared=shared,
            )
        self.attention_norm = make_norm(model.norm, model.width, bias=model.bias, epsilon=model.norm_epsilon)
        self.dims = model.branch_dims
        self.branches = nn.ModuleList(Values(branch, self.dims) for branch in layer.branches)
        self.cross: Attention | None = None
        self.cross_norm: nn.Module | None = None
        if layer.cross is not None:
            self.cross = Attention(
                layer.cross,
                width=model.width,
                source_width=model.source_width,
                depth=model.depth,
                bias=model.bias,
                dropout=model.attention_dropout,
                layer=index,
                cross=True,
            )
            self.cross_norm = make_norm(model.norm, model.width, bias=model.bias, epsilon=model.norm_epsilon)
        self.feed_forward: FeedForward | None = None
        self.feed_forward_norm: nn.Module | None = None
        if model.feed_forward.name != "none":
            self.feed_forward = FeedForward(model.feed_forward, width=model.width, depth=model.depth, bias=model.bias)
            self.feed_forward_norm = make_norm(model.norm, model.width, bias=model.bias, epsilon=model.norm_epsilon)
        if model.output_init == "zero":
            for name, parameter in self.named_parameters():
                if name.split(".")[-1] in ("out", "down"):
                    nn.init.zeros_(parameter)

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        layout: Layout,
        *,
        state: LayerState | None = None,
        carry: Carry | None = None,
        context: Tensor | None = None,
        context_layout: Layout | None = None,
        wanted: frozenset[str] = OUTPUT,
    ) -> tuple[Float[Tensor, "B T E"], AttentionOutput]:
        """The layer's output, and what its self-attention gave.

        `wanted` outputs are handed back in `extra`, those of cross-attention under names such as `cross.weights`;
        whoever wants `cross.weights` gets them alone.
        """
        valid = layout.query.valid
        own = wanted if wanted == OUTPUT else frozenset(name for name in wanted if not name.startswith(CROSS))
        across = wanted if wanted == OUTPUT else frozenset(name.removeprefix(CROSS) for name in wanted)
        given: AttentionOutput | None = None
        looked: AttentionOutput | None = None

        def attend(h: Tensor) -> Tensor:
            nonlocal given
            if self.attention is None:
                given = AttentionOutput(self._branch(h, layout, state), carry, losses=self._losses())
                return given.y
            source, memory = None, self.attention.spec.memory
            if state is not None and state.memory is not None and memory is not None:
                source = torch.cat([state.memory, h], 1)
                state.memory = memory.keep(source)
            given = self.attention(h, layout, source=source, state=state, carry=carry, wanted=own)
            if not self.layer.branches:
                return given.y
            given.losses.update(self._losses())
            return given.y + self._branch(h, layout, state)

        x = self._residual(x, self.attention_norm, attend, valid)
        if self.cross is not None:
            cross, cross_norm = self.cross, self.cross_norm
            assert cross_norm is not None and context_layout is not None

            def look(h: Tensor) -> Tensor:
                nonlocal looked
                looked = cross(h, context_layout, source=context, state=state, wanted=across)
                return looked.y

            x = self._residual(x, cross_norm, look, valid)
        if self.feed_forward is not None:
            assert self.feed_forward_norm is not None
            x = self._residual(x, self.feed_forward_norm, self.feed_forward, valid)
        assert given is not None
        if looked is not None:
            given.extra.update({f"{CROSS}{name}": held for name, held in looked.extra.items()})
        return x, given

    def _residual(self, x: Tensor, norm: nn.Module, f: Callable[[Tensor], Tensor], valid: Tensor | None) -> Tensor:
        y = f(norm(x, valid)) if self.pre else f(x)
        if self.dropout and self.training:
            y = dropout(y, self.dropout)
        z: Tensor = x + y if self.pre else norm(x + y, valid)
        return z

    def _losses(self) -> dict[str, Tensor]:
        """What the branches add to the training loss."""
        return {
            f"{mixer.kind}.{name}": loss
            for mixer, values in zip(self.layer.branches, self.branches, strict=True)
            for name, loss in mixer.losses(values.params, self.dims).items()  # type: ignore[arg-type]
        }

    def _branch(self, h: Tensor, layout: Layout, state: LayerState | None) -> Tensor:
        """The sum of what runs beside attention. The branches of a tree are rows of their own here."""
        if layout.kind is LayoutKind.TREE:
            rows = h.reshape(-1, 1, h.shape[-1])
            return self._branch(rows, Layout.plain(1, device=h.device), state).view_as(h)
        valid = layout.query.valid
        starts = layout.starts
        valid = None if valid is None else valid.expand(h.shape[:2])
        starts = None if starts is None else starts.expand(h.shape[:2])
        total = torch.zeros_like(h)
        for place, (mixer, values) in enumerate(zip(self.layer.branches, self.branches, strict=True)):
            assert isinstance(values, Values)
            held = state is not None and len(state.branches) > place
            before = state.branches[place] if state is not None and held else mixer.init(self.dims, h.shape[0], h)
            y, after = mixer.mix(values.params, h, before, valid, starts)
            if state is not None and held:
                state.branches[place] = after
            total = total + y
        return total
