"""What every model is made of: tokens to vectors, through the layers of a `ModelSpec`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from attentune.errors import SpecError
from attentune.kernels.layout import Layout, LayoutKind
from attentune.layers.attention import OUTPUT, Attention, Carry
from attentune.layers.block import CROSS, Block
from attentune.layers.dropout import dropout
from attentune.layers.embedding import Embedding
from attentune.layers.halting import Halting, Walk
from attentune.layers.norm import make_norm
from attentune.layers.state import KeyValueCache, LayerState, State, extend
from attentune.shapes import Float, Int, Tensor
from attentune.spec.model import ModelSpec
from attentune.spec.positions import Positions

Extra = dict[str, Tensor | tuple[Tensor, Tensor]]


@dataclass
class Hidden:
    """Vectors of the tokens after the last norm, and what the layers gave beside them.

    `losses` are to be added to the loss; one that several layers have is their sum. `state` is to go on with.
    `attention` holds the wanted outputs of each layer. Where tokens may halt, `depths` counts the layers that each was
    computed in, 0 for padding.
    """

    x: Float[Tensor, "B T E"]
    losses: dict[str, Tensor] = field(default_factory=dict)
    state: State | None = None
    attention: list[Extra] = field(default_factory=list)
    depths: Int[Tensor, "B T"] | None = None


class Transformer(nn.Module):
    """Embedding, layers, last norm: what encoders, decoders and the models of every task have in common.

    Without a state it computes whole rows. With `start()`'s state it computes what comes next after what the state has
    seen, and brings the state up to date.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = Embedding(
            vocab_size=spec.vocab_size,
            width=spec.width,
            context=spec.context,
            position=spec.position,
            scale=spec.scale_embeddings,
            norm=last_norm(spec) if spec.embedding_norm else None,
            ngrams=spec.ngrams,
        )
        shared: dict[str, nn.Module] = {}
        self.layers = nn.ModuleList()
        for index in range(spec.depth):
            block = Block(spec.layer(index), spec, index=index, shared=shared)
            self.layers.append(block)
            if "position" in spec.share and not shared and block.attention is not None:
                shared["position"] = block.attention.held["position"][0]
        self.norm = last_norm(spec) if spec.norm_placement == "pre" else None
        self.halting = None if spec.halting is None else Halting(spec.halting, width=spec.width)
        self.remembers = any(attention.memory is not None for attention in spec.attentions)
        self.has_cross = any(layer.cross is not None for layer in spec.layers)

    @property
    def has_memory(self) -> bool:
        """Whether training hands a state from segment to segment."""
        return self.remembers

    def bind(self, *, kernel: str = "auto", device: str | None = None, dtype: torch.dtype | None = None) -> None:
        """Choose the kernels of every attention for a device and dtype; by default those of the parameters."""
        device, dtype = device or self.embedding.table.device.type, dtype or self.embedding.table.dtype
        for module in self.modules():
            if isinstance(module, Attention):
                module.bind(kernel=kernel, device=device, dtype=dtype)

    def start(self, batch: int) -> State:
        """The state before the first token, for decoding `batch` rows piece by piece."""
        if self.spec.ngrams is not None:
            raise SpecError("a model with ngrams sees whole texts: it cannot go on from a state")
        table = self.embedding.table
        layers = []
        for block in self.layers:
            assert isinstance(block, Block)
            held = LayerState(branches=[mixer.init(block.dims, batch, table) for mixer in block.layer.branches])
            if block.attention is not None and block.attention.spec.memory is not None:
                held.memory = table.new_zeros(batch, 0, self.spec.width)
            elif block.attention is not None:
                held.cache = KeyValueCache()
            layers.append(held)
        return State(None, layers)

    def hidden_states(
        self,
        ids: Int[Tensor, "B T"],
        layout: Layout | None = None,
        *,
        state: State | None = None,
        context: Float[Tensor, "B K E"] | None = None,
        context_valid: Tensor | None = None,
        context_finite: bool = False,
        wanted: frozenset[str] = OUTPUT,
    ) -> Hidden:
        """The vectors of every token of `ids`.

        `layout` tells padding and documents (plain rows where None); with a state only that of the
        first call may, except a tree. `context` is what cross-attention looks at; `context_finite`
        says that what stands at its padding is finite numbers. `wanted` names attention outputs to hand
        back, such as `weights`, of cross-attention too (`cross.weights`).
        """
        if ids.shape[1] == 0:
            raise SpecError("a row needs at least one token, got 0")
        if context is not None and not self.has_cross:
            raise SpecError("this model has no cross-attention: it cannot look at a context")
        if not self.has_cross and (crossing := [name for name in sorted(wanted) if name.startswith(CROSS)]):
            raise SpecError(f"this model has no cross-attention: nothing gives wanted={crossing[0]}")
        if self.has_cross and context is None and (state is None or state.context is None):
            raise SpecError("this model has cross-attention: give it a context")
        if self.halting is not None and wanted != OUTPUT:
            raise SpecError("a token that halts has no attention in deeper layers: only the output can be wanted")
        if state is None and self.remembers:
            state = self.start(ids.shape[0])
        last = ids.shape[1] - 1
        if state is not None:
            grown = layout is not None and layout.kind is LayoutKind.TREE
            if state.positions is not None and self.embedding.places is not None:  # reading it waits for the device
                known = int(state.positions.position.max()) + 1
                last = int(layout.query.position.max()) if layout is not None and grown else last + known
            layout = self._grow(layout, state) if layout is not None and grown else self._continue(ids, layout, state)
        elif layout is None:
            layout = Layout.plain(ids.shape[1], device=ids.device)
        seen = None if state is None else state.context
        if context is not None:
            seen = _places(context, context_valid)
        if state is not None and context is not None:
            state.context, state.looking = seen, None
        # Padding has an embedding as every token has: no layer need be kept from what stands there.
        layout = layout.with_finite("query", "key")

        x = self.embedding(ids, layout, last=last)
        if self.spec.dropout and self.training:
            x = dropout(x, self.spec.dropout)
        looking = partial(_looking, state=state, context=context, seen=seen, finite=context_finite)
        hidden = self._through_layers(x, layout, state, context, looking, wanted)
        if self.norm is not None:
            hidden.x = self.norm(hidden.x, layout.query.valid)
        if state is not None:
            hidden.state = self._seen(state, layout)
        return hidden

    def _through_layers(
        self,
        x: Float[Tensor, "B T E"],
        layout: Layout,
        state: State | None,
        context: Tensor | None,
        looking: Callable[[Layout], Layout | None],
        wanted: frozenset[str],
    ) -> Hidden:
        """`x` from the first layer to the last; `looking` gives cross-attention's layout for that of the tokens."""
        losses: dict[str, Tensor] = {}
        records: list[Extra] = []
        walk = None if self.halting is None else Walk(self.halting, x, layout)
        context_layout = looking(layout)
        carry: Carry | None = None
        for index, block in enumerate(self.layers):
            assert isinstance(block, Block)
            held = None if state is None else state.layers[index]
            if walk is not None and index > 0:
                if walk.empty and (block.cross is None or context is None):  # a new context is always projected
                    continue
                x, layout, carry = walk.x, walk.over_past(held), walk.carried(carry)
                context_layout = looking(layout)
            x, given = block(
                x,
                layout,
                state=held,
                carry=carry,
                context=context,
                context_layout=context_layout,
                wanted=wanted,
            )
            carry = given.carry
            for name, loss in given.losses.items():
                losses[name] = losses[name] + loss if name in losses else loss
            if wanted != OUTPUT:
                records.append(given.extra)
            if walk is not None:
                walk.after(x, last=index + 1 == len(self.layers))
        if walk is None:
            return Hidden(x, losses, attention=records)
        losses["halting"] = walk.cost
        return Hidden(walk.output.to(x.dtype), losses, attention=records, depths=walk.depths)

    def _continue(self, ids: Tensor, layout: Layout | None, state: State) -> Layout:
        """The layout of the next tokens over everything the state knows."""
        if not self.remembers:
            for block in self.layers:
                assert isinstance(block, Block)
                if block.attention is None:
                    continue
                block.attention.check_decoding(
                    state.length, ids.shape[1], lambda: int(state.next_positions(1, ids.device).position.min())
                )
        if state.length == 0:
            if layout is None:
                layout = Layout.plain(ids.shape[1], device=ids.device)
            return layout
        if layout is not None and layout.kind is not LayoutKind.PLAIN:
            raise SpecError(f"a {layout.kind} layout may only be given with the first tokens of a state")
        query = state.next_positions(ids.shape[1], ids.device)
        known = extend(state.positions, query)
        return Layout(LayoutKind.CACHED, query, known)

    def _grow(self, layout: Layout, state: State) -> Layout:
        """The layout of one more token for each branch of a tree, as the caller knows it."""
        if self.halting is not None or self.remembers:
            raise SpecError("a tree of texts cannot be decoded by a model whose tokens halt or that remembers segments")
        if layout.key.index.shape[1] != state.length + layout.query.index.shape[1]:
            raise SpecError(
                f"a tree's layout needs a place for each of {state.length} known tokens and each new one, "
                f"got {layout.key.index.shape[1]}"
            )
        earliest, latest = (int(place) for place in torch.aminmax(layout.query.position))
        for block in self.layers:
            assert isinstance(block, Block)
            if block.attention is not None:
                block.attention.check_decoding(latest, 1, lambda: earliest)
        return layout

    def _seen(self, state: State, layout: Layout) -> State:
        keep = layout.key
        if self.remembers:
            memory = self.spec.attentions[0].memory
            assert memory is not None
            length = memory.length
            keep = keep.map(lambda tensor: tensor[:, -length:])
            for layer in state.layers:  # as for the memory, no gradient flows into an earlier segment
                layer.branches = [{name: held.detach() for name, held in branch.items()} for branch in layer.branches]
        state.positions = keep
        return state


def last_norm(spec: ModelSpec) -> nn.Module:
    """The kind of norm that the whole model uses."""
    return make_norm(spec.norm, spec.width, bias=spec.bias, epsilon=spec.norm_epsilon)


def _places(context: Tensor, valid: Tensor | None) -> Positions:
    places = Positions.arange(context.shape[1], device=context.device)
    if valid is None:
        return places
    index = places.index.expand(valid.shape)
    return Positions(index=index, position=index, valid=valid)


def _looking(
    layout: Layout, *, state: State | None, context: Tensor | None, seen: Positions | None, finite: bool
) -> Layout | None:
    """The layout of cross-attention, where there is any; `finite` tells of what stands at padding of the context."""
    if seen is None:
        return None
    if state is not None and context is None:
        return state.look(layout.query)
    made = Layout.cross(layout.query, seen).with_finite("query")
    return made.with_finite("key") if finite else made
