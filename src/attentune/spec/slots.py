"""The slots of an attention: what a mechanism may be, and what it must say of itself.

A mechanism is a frozen value in exactly one slot. It holds no tensors: it declares its parameters,
and its mathematics is a pure function of (parameters, inputs). Each slot below is abstract; the
values stand in `attentune.mechanisms`, one file each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from attentune.errors import SpecError, near
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.masks import Mask
from attentune.spec.mechanism import Dims, Mechanism, Params, ScoreForm, Stage
from attentune.spec.positions import Positions
from attentune.spec.score_steps import SoftCap, StepForm


class Heads(Mechanism):
    """Numbers and widths of heads, and the projections from and to the model width.

    What a cache keeps of a token is `entries`: named tensors [B G N C] that `expand` turns into
    keys and values. Query head h reads key/value head `h // (H / G)`, as torch's `enable_gqa`.
    """

    slot: ClassVar[str] = "heads"
    stage: ClassVar[Stage] = Stage.OPERANDS
    heads: int

    @abstractmethod
    def dims(self, *, width: int, source_width: int, depth: int, bias: bool, cross: bool) -> Dims:
        """The sizes at this model width; `SpecError` where they do not fit."""

    @abstractmethod
    def project(
        self, params: Params, dims: Dims, x: Float[Tensor, "B Q E"], source: Float[Tensor, "B K F"] | None
    ) -> tuple[Float[Tensor, "B H Q D"], dict[str, Tensor]]:
        """Queries of `x`, and the entries of `source` (of `x` itself where `source` is None)."""

    @abstractmethod
    def expand(
        self, params: Params, dims: Dims, entries: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B G K D"], Float[Tensor, "B G K V"]]:
        """Keys and values from (cached) entries."""

    @abstractmethod
    def output(self, params: Params, dims: Dims, o: Float[Tensor, "B H Q V"]) -> Float[Tensor, "B Q E"]:
        """Back to the model width."""

    @abstractmethod
    def entry_shapes(self, dims: Dims) -> dict[str, tuple[int, int]]:
        """(heads, width) of each entry: what one cached token costs."""

    @property
    def keeps_keys(self) -> bool:
        """Whether whole keys exist before they are cached, so that operand scores can change them."""
        return True

    def rotated(self, dims: Dims) -> tuple[str, int]:
        """The entry that rotary positions turn, and how many last columns of q turn with it."""
        return "k", dims.head_width


class Similarity(Mechanism):
    """s = f(q, k)."""

    slot: ClassVar[str] = "similarity"
    stage: ClassVar[Stage] = Stage.SIMILARITY
    by_angle: ClassVar[bool] = False  # of |q|, |k| and q.k alone: what turns q and k together leaves s as it is

    @abstractmethod
    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        """The similarity of every query with every key."""

    def inner_product_scale(self, dims: Dims) -> float | None:
        """c where s = c q.k, so that fused kernels may compute it; None for any other function."""
        del dims
        return None


class Position(Mechanism):
    """Where order enters inside attention."""

    slot: ClassVar[str] = "position"
    needs_order: ClassVar[bool] = True


class Rotation(Position):
    """Turns queries and keys by their positions, before the similarity."""

    stage: ClassVar[Stage] = Stage.OPERANDS

    @abstractmethod
    def table(self, width: int, positions: Positions, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What `rotate` needs for these positions; computed once for all layers."""

    @abstractmethod
    def rotate(self, x: Float[Tensor, "B N T C"], table: tuple[Tensor, Tensor]) -> Float[Tensor, "B N T C"]:
        """`x` turned by its positions."""

    @property
    def steady_length(self) -> int | None:
        """Up to how many tokens the angles do not depend on the length of the row; None for any number.

        Keys that were turned and cached cannot be turned anew, so that decoding step by step ends there.
        """
        return None


class Bias(Position):
    """Adds to each score a number that depends on head and positions."""

    stage: ClassVar[Stage] = Stage.SCORES
    form: ClassVar[ScoreForm] = ScoreForm.ELEMENTWISE

    @property
    def step(self) -> StepForm | None:
        """`ADD_BY_DISTANCE` where the number depends on head and i - j alone, which fused kernels can compute."""
        return None

    @abstractmethod
    def bias(self, params: Params, dims: Dims, query: Positions, key: Positions, head: Int[Tensor, "..."]) -> Tensor:
        """The number to add; all arguments broadcast against each other."""


class RelativePosition(Position):
    """Adds to each score what the query (and the key) make of the distance between them; needs q itself."""

    stage: ClassVar[Stage] = Stage.SCORES
    form: ClassVar[ScoreForm] = ScoreForm.RELATIVE

    @property
    def adds_values(self) -> bool:
        """Whether `values` gives anything."""
        return False

    @abstractmethod
    def scores(
        self,
        params: Params,
        dims: Dims,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        query: Positions,
        key: Positions,
        scale: float,
    ) -> Float[Tensor, "B H Q K"]:
        """The number to add, times the `scale` of the similarity; `query` is [B 1 Q 1], `key` [B 1 1 K]."""

    def values(
        self, params: Params, dims: Dims, p: Float[Tensor, "B H Q K"], query: Positions, key: Positions
    ) -> Float[Tensor, "B H Q V"] | None:
        """What the weights `p` add to the output beside p v; None for nothing."""
        del params, dims, p, query, key
        return None


class Score(Mechanism):
    """What happens to each score, or to the operands it is made of."""

    slot: ClassVar[str] = "scores"
    form: ClassVar[ScoreForm]


class OperandScore(Score):
    """Acts on q and k before they are rotated; any kernel can follow it."""

    stage: ClassVar[Stage] = Stage.OPERANDS
    form: ClassVar[ScoreForm] = ScoreForm.BILINEAR

    @abstractmethod
    def operands(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D"], k: Float[Tensor, "B G K D"]
    ) -> tuple[Float[Tensor, "B H Q D"], Float[Tensor, "B G K D"]]:
        """The queries and keys to go on with."""


class ElementwiseScore(Score):
    """A function of one score, its positions and its head."""

    stage: ClassVar[Stage] = Stage.SCORES
    form: ClassVar[ScoreForm] = ScoreForm.ELEMENTWISE

    @abstractmethod
    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The score to go on with; all arguments broadcast against each other."""

    @property
    def step(self) -> StepForm | SoftCap | None:
        """The form of `modify` that fused kernels can compute; None for any other function.

        They evaluate `modify` itself once for each distance (with i or j at 0), or for each query.
        """
        return None

    hides: ClassVar[bool] = False  # gives some keys no weight: no later score may bring them back
    is_factor: ClassVar[bool] = False  # s -> c s with one c a head: `query_factor` may be folded into q

    def query_factor(self, params: Params) -> Float[Tensor, "H"] | float | None:
        """c, for all heads or for each, where the value is a factor; else None."""
        del params
        return None


class CarriedScore(Score):
    """Adds what earlier layers scored, as extra columns on q and k (their inner product is the sum)."""

    stage: ClassVar[Stage] = Stage.SCORES
    form: ClassVar[ScoreForm] = ScoreForm.BILINEAR

    @abstractmethod
    def columns(
        self, params: Params, q: Tensor, k: Tensor, carry: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """q and k with the columns of the layers below; they are also what the next layer receives."""


class Normalizer(Mechanism):
    """Scores to weights."""

    slot: ClassVar[str] = "normalizer"
    stage: ClassVar[Stage] = Stage.NORMALIZE
    online: ClassVar[bool]  # can be computed tile by tile in one pass
    # What `weights` is, so that fused kernels may compute it; None for any other function.
    #   softmax   exp(s) over the sum of exp(s) of the visible keys, and of `extra_logit` where there is one
    #   sigmoid   sigmoid(s + query_term)
    #   relu2     max(s, 0)^2, divided by the number of visible keys
    fused: ClassVar[Literal["softmax", "sigmoid", "relu2"] | None] = None
    has_extra_logit: ClassVar[bool] = False

    def extra_logit(self, params: Params, like: Float[Tensor, "H"]) -> Float[Tensor, "H"]:
        """One more logit of each head in the denominator, where `has_extra_logit`; `like` tells dtype and device."""
        del params
        return torch.zeros_like(like)

    def query_term(self, params: Params, count: Float[Tensor, "rows 1 Q"]) -> Float[Tensor, "rows heads Q"] | None:
        """What a sigmoid adds to the scores of a query that sees `count` keys (at least 1); None for nothing."""
        del params, count
        return None

    @abstractmethod
    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        """Weights that are exactly 0 where not visible, in rows without any visible key everywhere."""


class HeadMix(Mechanism):
    """Mixes scores and weights across heads."""

    slot: ClassVar[str] = "head_mix"
    stage: ClassVar[Stage] = Stage.PRE_MIX
    form: ClassVar[ScoreForm] = ScoreForm.CROSS_HEAD

    @abstractmethod
    def pre(self, params: Params, s: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q K"]:
        """Before the normaliser."""

    @abstractmethod
    def post(self, params: Params, p: Float[Tensor, "B H Q K"]) -> Float[Tensor, "B H Q K"]:
        """After it."""


class Selector(Mechanism):
    """Chooses visible keys by their content. It never scores a block of keys that holds the future."""

    slot: ClassVar[str] = "selector"
    stage: ClassVar[Stage] = Stage.VISIBLE
    needs_order: ClassVar[bool] = True
    by_query: ClassVar[bool] = False  # each query chooses by itself, and keys behind it change nothing

    @abstractmethod
    def select(
        self,
        params: Params,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        query: Positions,
        key: Positions,
        visible: Bool[Tensor, "..."],
    ) -> Bool[Tensor, "B H Q K"]:
        """True for the keys to attend to; it is ANDed with `visible`."""


class Combine(Mechanism):
    """What becomes of the attention's output, and of the values that it sums."""

    slot: ClassVar[str] = "combine"


class OutputCombine(Combine):
    """Acts on the attention's output before it is projected."""

    stage: ClassVar[Stage] = Stage.COMBINE

    @abstractmethod
    def combine(
        self,
        params: Params,
        dims: Dims,
        o: Float[Tensor, "B H Q W"],
        x: Float[Tensor, "B Q E"],
        q: Float[Tensor, "B H Q D"],
    ) -> Float[Tensor, "B H Q V"]:
        """The output to go on with.

        `x` is what the queries were projected from, `q` the projected queries before anything changed them.
        W is V, unless `values` widened the values.
        """

    def values(self, dims: Dims, v: Float[Tensor, "B G K V"]) -> Float[Tensor, "B G K W"]:
        """The values that the weights sum; of another width than V only where `wide` says so."""
        del dims
        return v

    def wide(self, dims: Dims) -> int:
        """W, the width of the values that `values` gives."""
        return dims.value_width


class CarriedValue(Combine):
    """Mixes the values of an earlier layer into this one's, before they are cached."""

    stage: ClassVar[Stage] = Stage.OPERANDS

    @abstractmethod
    def mix(
        self, params: Params, v: Float[Tensor, "B G K V"], carried: Float[Tensor, "B G K V"] | None
    ) -> tuple[Float[Tensor, "B G K V"], Float[Tensor, "B G K V"]]:
        """The values to go on with, and what to hand to the next layer; the first layer is handed None."""


class Memory(Mechanism):
    """What a layer carries from one segment of a text to the next."""

    slot: ClassVar[str] = "memory"
    stage: ClassVar[Stage] = Stage.OPERANDS
    needs_order: ClassVar[bool] = True
    length: int

    @abstractmethod
    def keep(self, hidden: Float[Tensor, "B M E"]) -> Float[Tensor, "B N E"]:
        """What to carry on of the hidden states seen so far, old to new; no gradient flows into it."""


class Mixer(Mechanism):
    """Something with a state of its own, run beside attention and added to it, or instead of it.

    All of its `forms` compute the same: `parallel` is quadratic in length, without any loop; `chunked` loops over
    chunks of tokens; `recurrent` loops over tokens. Of `dims` it may read width, depth and bias alone.
    """

    slot: ClassVar[str] = "branches"
    stage: ClassVar[Stage] = Stage.BESIDE
    forms: ClassVar[tuple[str, ...]] = ("recurrent",)

    @abstractmethod
    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        """The state before the first token, each tensor with the batch in front."""

    @abstractmethod
    def mix(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
        form: str = "auto",
    ) -> tuple[Float[Tensor, "B T E"], dict[str, Tensor]]:
        """Outputs and the state after the last token. Padding leaves the state alone, a document's start resets it.

        `form` is one of `forms`, or `auto` for what `preferred` says.
        """

    def preferred(self, tokens: int) -> str:
        """The form that `auto` stands for with so many tokens."""
        wanted = "recurrent" if tokens == 1 else "chunked"
        return wanted if wanted in self.forms else self.forms[0]

    def chosen(self, form: str, tokens: int) -> str:
        """The form to compute in; `SpecError` where there is no such form."""
        if form == "auto":
            return self.preferred(tokens)
        if form not in self.forms:
            raise SpecError(f"{self.kind} has no form {form!r}; {near(form, ('auto', *self.forms))}")
        return form


ATTENTION_SLOTS: dict[str, type[Any]] = {
    "heads": Heads,
    "similarity": Similarity,
    "position": Position,
    "mask": Mask,
    "scores": Score,
    "normalizer": Normalizer,
    "head_mix": HeadMix,
    "selector": Selector,
    "combine": Combine,
    "memory": Memory,
}
SLOTS: dict[str, type[Any]] = {**ATTENTION_SLOTS, "branches": Mixer}
