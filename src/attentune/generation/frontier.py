"""The open hypotheses of a batch on the model's state, and the step that makes them one token longer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch

from attentune.kernels.layout import Layout
from attentune.layers.attention import OUTPUT
from attentune.layers.block import CROSS
from attentune.layers.state import State
from attentune.models.decoder import Decoder
from attentune.models.encoder_decoder import Source
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.positions import Positions

SLACK = 12  # slots of dead branches that are carried on before they are cleared away
CROSS_WEIGHTS = OUTPUT | {f"{CROSS}weights"}


@dataclass
class Seen:
    """What the decoder made of the newest token of each hypothesis.

    `weights` are those of the last layer's cross-attention, the mean over its heads; None where not wanted.
    """

    hidden: Float[Tensor, "B W E"]
    weights: Float[Tensor, "B W K"] | None = None


class Frontier(ABC):
    """B sources with W open hypotheses each; `start` makes the first, one for each source.

    Args:
        decoder: of an encoder-decoder, or a language model.
        prompt: the first tokens of each row.
        valid: True on the real tokens of the prompt; None: all.
        encoded: what the encoder made of the sources, where there is one.
        weigh: whether the weights of cross-attention are wanted.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt: Int[Tensor, "B T"],
        valid: Bool[Tensor, "B T"] | None,
        encoded: Source | None,
        *,
        weigh: bool,
    ) -> None:
        self.decoder, self.wanted = decoder, CROSS_WEIGHTS if weigh else OUTPUT
        self.state: State = decoder.start(prompt.shape[0])
        self.prompt, self.valid, self.encoded = prompt, valid, encoded

    def start(self) -> Seen:
        """The prompt is read: the vectors of each row's last real token, as one hypothesis."""
        context, real = (None, None) if self.encoded is None else (self.encoded.hidden, self.encoded.valid)
        layout = None if self.valid is None else Layout.padded(self.valid)
        given = self.decoder.hidden_states(
            self.prompt, layout, state=self.state, context=context, context_valid=real, wanted=self.wanted
        )
        self.encoded = None  # its keys and values are in the state
        seen = self._seen(given.x, given.attention)
        if self.valid is None:
            last = torch.full_like(self.prompt[:, 0], self.prompt.shape[1] - 1)
        else:
            slot = torch.arange(self.prompt.shape[1], device=self.prompt.device)
            last = slot.masked_fill(~self.valid, -1).amax(-1)
        row = torch.arange(len(last), device=last.device)
        weights = None if seen.weights is None else seen.weights[row, last][:, None]
        return Seen(seen.hidden[row, last][:, None], weights)

    def _seen(self, hidden: Tensor, attention: list[dict[str, Tensor | tuple[Tensor, Tensor]]]) -> Seen:
        if self.wanted == OUTPUT:
            return Seen(hidden)
        found = [extra[f"{CROSS}weights"] for extra in attention if f"{CROSS}weights" in extra]
        weights = found[-1]
        assert isinstance(weights, Tensor)
        return Seen(hidden, weights.mean(1))

    @abstractmethod
    def step(self, tokens: Int[Tensor, "B W"], parents: Int[Tensor, "B W"]) -> Seen:
        """Each new hypothesis is the one at `parents` of the step before, with one of `tokens` after it."""

    @abstractmethod
    def keep(self, rows: Int[Tensor, "N"]) -> None:
        """Go on with some sources alone, in that order."""


@final
class Tree(Frontier):
    """The hypotheses of a source stand side by side in one row, and each sees its own ancestors.

    Nothing is copied when hypotheses change places: what they have in common is cached once, and the keys of a source
    are read once for all of its hypotheses. Cached tokens that no open hypothesis descends from are cleared away once
    there are enough of them.
    """

    path: Bool[Tensor, "B W K"]
    time = 0

    def start(self) -> Seen:
        seen = super().start()
        rows, length = self.prompt.shape
        known = self.state.positions
        assert known is not None
        self.state.positions = known.map(lambda tensor: tensor.expand(rows, -1))
        there = self.prompt.new_ones(rows, length, dtype=torch.bool) if self.valid is None else self.valid
        self.path = there[:, None]
        self.last = self.state.positions.position.masked_fill(~there, 0).amax(-1)
        return seen

    def step(self, tokens: Tensor, parents: Tensor) -> Seen:
        rows, width = tokens.shape
        known = self.state.positions
        assert known is not None
        before = self.path.shape[1]
        if any(layer.branches for layer in self.state.layers):
            first = torch.arange(0, rows * before, before, device=tokens.device)
            self.state.reorder_branches((first[:, None] + parents).flatten())
        slots = known.index.shape[1]
        path = self.path.gather(1, parents[..., None].expand(-1, -1, slots))
        path, known = self._pruned(path, known)
        own = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(rows, -1, -1)
        self.path = torch.cat([path, own], 2)
        self.time += 1
        place = (self.last + self.time)[:, None].expand(-1, width)
        index = torch.full_like(place, self.prompt.shape[1] - 1 + self.time)
        query = Positions(index=index, position=place)
        key = Positions(index=torch.cat([known.index, index], 1), position=torch.cat([known.position, place], 1))
        layout = Layout.tree(query, key, self.path)
        given = self.decoder.hidden_states(tokens, layout, state=self.state, wanted=self.wanted)
        return self._seen(given.x, given.attention)

    def _pruned(self, path: Tensor, known: Positions) -> tuple[Tensor, Positions]:
        """Without the cached tokens that nobody descends from, where they are many."""
        alive = path.any(1)
        most = int(alive.sum(1).amax())
        if path.shape[2] - most < SLACK:
            return path, known
        # The living first, in their order; shorter rows are filled up with dead ones, which no path shows.
        slots = (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        self.state.keep(slots)
        assert self.state.positions is not None
        return path.gather(2, slots[:, None].expand(-1, path.shape[1], -1)), self.state.positions

    def keep(self, rows: Tensor) -> None:
        width = self.path.shape[1]
        branches = (rows[:, None] * width + torch.arange(width, device=rows.device)).flatten()
        self.state.reorder(rows, branches=branches)
        self.path, self.last = self.path.index_select(0, rows), self.last.index_select(0, rows)


@final
class Rows(Frontier):
    """Every hypothesis is a row of its own, and states are copied as hypotheses change places: for any model."""

    width = 1

    def step(self, tokens: Tensor, parents: Tensor) -> Seen:
        rows, width = tokens.shape
        first = torch.arange(0, rows * self.width, self.width, device=tokens.device)
        self.state.reorder((first[:, None] + parents).flatten())
        self.width = width
        given = self.decoder.hidden_states(tokens.reshape(-1, 1), state=self.state, wanted=self.wanted)
        seen = self._seen(given.x, given.attention)
        weights = None if seen.weights is None else seen.weights.view(rows, width, -1)
        return Seen(seen.hidden.view(rows, width, -1), weights)

    def keep(self, rows: Tensor) -> None:
        width = torch.arange(self.width, device=rows.device)
        self.state.reorder((rows[:, None] * self.width + width).flatten())


def frontier(
    decoder: Decoder,
    prompt: Int[Tensor, "B T"],
    valid: Bool[Tensor, "B T"] | None,
    encoded: Source | None,
    *,
    weigh: bool,
) -> Frontier:
    """A tree, or rows where the model needs them: tokens that halt leave the cache of deeper layers, memories move."""
    kind = Rows if decoder.halting is not None or decoder.has_memory else Tree
    return kind(decoder, prompt, valid, encoded, weigh=weigh)
