"""What a training starts from, and how much of it may change: a frozen value, part of `RunSpec`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from attentune.spec.value import Frozen

_TERM = re.compile(
    r"(?:(?P<stack>encoder|decoder)(?:\s+|$))?(?:(?P<part>embedding|norm|layers)(?:\s+(?P<first>\d+)(?:-(?P<last>\d+))?)?)?"
)


@dataclass(frozen=True)
class Part:
    """Some of a model's weights: of one stack or of all, everything (`part` None), or what `part` names.

    `layers` without numbers are all; `first` and `last` count from 0 and are both in it.
    """

    text: str
    stack: str | None = None
    part: str | None = None
    first: int | None = None
    last: int | None = None

    def holds(self, stack: str, name: str) -> bool:
        """Whether the weight `name` of that stack, such as `layers.3.feed_forward.up`, is in it."""
        if self.stack not in (None, stack):
            return False
        if self.part is None:
            return True
        first, _, rest = name.partition(".")
        if first != self.part or self.first is None:
            return first == self.part
        assert self.last is not None
        return self.first <= int(rest.partition(".")[0]) <= self.last


def read_parts(text: str) -> tuple[Part, ...]:
    """Parts of a model in their text form, separated by commas.

    `embedding`, `norm` (the last one), `layers` (all), `layers 0-3`, `layers 5`; with `encoder` or `decoder` before it
    those of one stack (`encoder layers 0-1`), and these words alone are the whole stack.

    Raises:
        ValueError: a term is none of these.
    """
    parts = []
    for term in (term.strip() for term in text.split(",")):
        if not term and not text.strip():
            continue
        found = _TERM.fullmatch(term)
        if found is None or not term or (found["first"] is not None and found["part"] != "layers"):
            raise ValueError(
                "freeze names embedding, norm, layers, layers 0-3, encoder or decoder, separated by commas; "
                f"got {term!r}"
            )
        first = None if found["first"] is None else int(found["first"])
        last = first if found["last"] is None else int(found["last"])
        if first is not None and last is not None and last < first:
            raise ValueError(f"freeze counts layers upwards, got {term!r}")
        parts.append(Part(term, found["stack"], found["part"], first, last))
    return tuple(parts)


class AdapterSpec(Frozen):
    """Low-rank adapters (LoRA, arXiv:2106.09685): W + alpha / rank B A, of which A and B alone learn.

    They are merged into W at the end, so that what is saved is a plain model.
    """

    rank: int = Field(default=0, ge=0)  # 0: none, all weights learn
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    where: Literal["attention", "all"] = "attention"  # all: the feed-forward networks' matrices too

    @model_validator(mode="after")
    def _is_used(self) -> AdapterSpec:
        if not self.rank and (self.alpha, self.where) != (16.0, "attention"):
            raise ValueError("alpha and where do nothing without a rank: say for example rank = 8")
        return self


class StartSpec(Frozen):
    """A model whose weights training starts from, and how they may change.

    `path` is a folder that Attentune has written, or a local checkpoint in the Hugging Face layout. Its tokenizer and
    its sizes come with it. `layer_decay` multiplies the learning rate from each layer to the one below it, the output
    layer has the full one (arXiv:1801.06146, section 3.2).
    """

    path: str | None = None  # None: weights are drawn
    part: Literal["auto", "encoder"] = "auto"  # encoder: alone, where the folder and the task have a decoder too
    freeze: str = ""  # what does not learn: "embedding, layers 0-3"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    adapters: AdapterSpec = AdapterSpec()

    @model_validator(mode="after")
    def _freeze_reads(self) -> StartSpec:
        read_parts(self.freeze)
        if self.freeze and self.adapters.rank:
            raise ValueError("with adapters nothing else of the folder's weights learns anyway: leave freeze out")
        return self

    @property
    def frozen(self) -> tuple[Part, ...]:
        """What does not learn."""
        return read_parts(self.freeze)
