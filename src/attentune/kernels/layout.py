"""Which tokens of a batch are there and belong together: what masks are ANDed with, always last."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import torch

from attentune.errors import SpecError
from attentune.shapes import Bool, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.positions import Positions

Side: TypeAlias = Literal["query", "key"]


class LayoutKind(StrEnum):
    """What a kernel has to reckon with; known without looking at any tensor."""

    PLAIN = "plain"  # every row full, one document, queries are the keys
    PADDED = "padded"  # some tokens are padding
    PACKED = "packed"  # several documents in a row
    CACHED = "cached"  # more keys than queries: a cache or a memory
    CROSS = "cross"  # keys of another sequence
    TREE = "tree"  # texts that branch: a query sees the tokens of its own branch alone, as hypotheses of a beam do


@dataclass(frozen=True)
class Layout:
    """Positions of the queries and of the keys. The named constructors are the way to make one.

    `path` is True on the keys of a query's own branch of a tree; `finite` names the sides whose padding holds finite
    numbers, as where a model made them: zero times such a number is zero, and nothing need be copied to make it so.
    """

    kind: LayoutKind
    query: Positions
    key: Positions
    path: Bool[Tensor, "B Q K"] | None = None
    finite: frozenset[Side] = frozenset()
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def plain(length: int, *, device: torch.device | str | None = None) -> Layout:
        """Full rows of one document each."""
        positions = Positions.arange(length, device=device)
        return Layout(LayoutKind.PLAIN, positions, positions)

    @staticmethod
    def padded(valid: Bool[Tensor, "B T"]) -> Layout:
        """Rows with padding, on either side or between; positions count the real tokens only."""
        if valid.dtype is not torch.bool:
            raise SpecError(f"padding is told by a boolean tensor that is True on real tokens, got {valid.dtype}")
        index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
        position = (valid.cumsum(-1) - 1).clamp(min=0)
        positions = Positions(index=index, position=position, valid=valid)
        return Layout(LayoutKind.PADDED, positions, positions)

    @staticmethod
    def packed(documents: Int[Tensor, "B T"]) -> Layout:
        """Several documents in a row, isolated. Equal neighbours are one document; negative ids are padding."""
        starts = document_starts(documents)
        index = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
        first = torch.where(starts, index, 0).cummax(-1).values
        number = starts.cumsum(-1)  # an id that comes back after another is another document
        positions = Positions(index=index, position=index - first, document=number, valid=documents >= 0)
        return Layout(LayoutKind.PACKED, positions, positions)

    @staticmethod
    def cross(query: Positions, key: Positions, *, finite: frozenset[Side] = frozenset()) -> Layout:
        """Queries of one sequence, keys of another."""
        return Layout(LayoutKind.CROSS, query, key, finite=finite)

    def with_finite(self, *sides: Side) -> Layout:
        """The same layout, told that padding on these sides holds finite numbers; what was made for it is shared."""
        return Layout(self.kind, self.query, self.key, self.path, self.finite.union(sides), self._memo)

    @staticmethod
    def tree(query: Positions, key: Positions, path: Bool[Tensor, "B Q K"]) -> Layout:
        """Queries side by side that each end a branch; `path` tells which keys are of it, the query's own included."""
        return Layout(LayoutKind.TREE, query, key, path=path)

    def with_keys(self, key: Positions) -> Layout:
        """The same queries over the keys of a cache or a memory."""
        return Layout(LayoutKind.CACHED, self.query, key)

    def with_prefix(self, prefix: Int[Tensor, "B"]) -> Layout:
        """The same layout, with the length of each row's prefix for a prefix mask."""

        def told(places: Positions) -> Positions:
            own = places.map(lambda tensor: tensor.expand(len(prefix), -1))  # rows differ from here on
            return replace(own, prefix=prefix[:, None].expand(own.index.shape))

        query, key = told(self.query), told(self.key)
        kind = LayoutKind.PADDED if self.kind is LayoutKind.PLAIN else self.kind
        return Layout(kind, query, key)

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """`make()`, computed once for this layout and then shared by all layers.

        A compiler finds by itself what is computed twice, and could not look into the memo.
        """
        if torch.compiler.is_compiling():
            return make()
        if name not in self._memo:
            with torch.inference_mode(False):  # what is kept must serve training too
                self._memo[name] = make()
        return self._memo[name]

    def visible(self, mask: Mask) -> Bool[Tensor, "B 1 Q K"]:
        """Where `mask` lets a query see a key that is there and of its own document."""
        return self.once(("visible", mask), lambda: self._visible(mask))  # type: ignore[no-any-return]

    def _visible(self, mask: Mask) -> Bool[Tensor, "B 1 Q K"]:
        seen = self.joined(mask, self.query.as_queries(), self.key.as_keys())
        return seen if self.path is None else seen & self.path[:, None]

    def joined(self, mask: Mask, query: Positions, key: Positions) -> Bool[Tensor, "..."]:
        """The same of some of its queries and keys, which broadcast against each other."""
        return mask.joins(query, key, documents=self.kind is not LayoutKind.CROSS)

    @property
    def starts(self) -> Bool[Tensor, "B T"] | None:
        """True at the first token of every document: where recurrent state is reset.

        What follows a state goes on with its last document, and padding between documents resets nothing.
        """
        document, valid = self.query.document, self.query.valid
        if document is None or self.kind is LayoutKind.CACHED:
            return None
        starts: Tensor = self.once("starts", lambda: document_starts(document))
        return starts if valid is None else starts & valid


def without_padding(layout: Layout, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B H Q D], keys and values with padding set to zero where it may not be finite.

    Zero times whatever stood there is then zero.
    """
    if (padding := _padding(layout, "key")) is not None:
        k, v = k.masked_fill(padding, 0.0), v.masked_fill(padding, 0.0)
    return queries_without_padding(layout, q), k, v


def queries_without_padding(layout: Layout, q: Tensor) -> Tensor:
    """The same of the queries alone."""
    padding = _padding(layout, "query")
    return q if padding is None else q.masked_fill(padding, 0.0)


def _padding(layout: Layout, side: Side) -> Bool[Tensor, "B 1 T 1"] | None:
    """Where there is padding that may hold anything; None where there is none, so that nothing need be copied."""
    valid = getattr(layout, side).valid
    if valid is None or side in layout.finite:
        return None
    # Looking at numbers would break a graph, and make an accelerator wait.
    can_look = valid.device.type == "cpu" and not torch.compiler.is_compiling()
    if can_look and layout.once(("no padding", side), lambda: bool(valid.all())):
        return None
    padding: Tensor = ~valid[:, None, :, None]
    return padding


def document_starts(documents: Int[Tensor, "B T"] | None) -> Bool[Tensor, "B T"]:
    """True at the first token of each run of equal ids."""
    assert documents is not None
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return starts
