"""Where a model from text to text looks: examples worth a picture, with the weights of its cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import nn

from attentune.data.records import Record
from attentune.errors import AttentuneError, SpecError
from attentune.tasks.task import Fitted

TRIED = 40  # records that examples are chosen from
READABLE = (4, 24)  # words, or of texts without spaces letters, of what is read
CELLS = 60  # tokens at most of a picture, either way


@dataclass(frozen=True, eq=False)
class Look:
    """Tokens that were `read` and `wrote`, and how much each of these looked at each of those.

    Shape: weights [wrote, read], each row a share of 1.
    """

    file: str  # of its picture
    title: str
    where: str
    asked: str
    said: str
    read: tuple[str, ...]
    wrote: tuple[str, ...]
    weights: Float[np.ndarray, "L K"]

    def __post_init__(self) -> None:
        if self.weights.shape != (len(self.wrote), len(self.read)):
            raise SpecError(
                f"attention from {len(self.wrote)} tokens to {len(self.read)} needs as many weights, got the shape "
                f"{self.weights.shape}"
            )

    def lines(self) -> list[str]:
        """What stands above the picture; its tokens too, as a machine may lack the letters to draw them."""
        tokens = f"Columns: {' · '.join(self.read)}. Rows: {' · '.join(self.wrote)}."
        return [f"**{self.title}** ({self.where})", "", f"> {self.asked}", ">", f"> → {self.said}", "", tokens]


def looks(fitted: Fitted, model: nn.Module, records: Sequence[Record]) -> tuple[Look, ...]:
    """The texts that the model is surest, middling and least sure of, among the first that can be read in a picture.

    Empty for tasks whose answer is no text, and for attentions that have no weights to show.
    """
    if fitted.task.stack != "encoder-decoder":
        return ()
    few = [one for one in records if READABLE[0] <= _size(_asked(fitted, one)) <= READABLE[1]][:TRIED]
    if not few:
        return ()
    answers = fitted.predict(model, few)
    order = sorted(range(len(few)), key=lambda place: -float(answers[place].fields.get("score", 0.0)))
    places = {"Surest": order[0], "In the middle": order[len(order) // 2], "Least sure": order[-1]}
    names = {place: name for name, place in reversed(places.items())}  # of few records one may be several
    found = []
    for number, place in enumerate(dict.fromkeys(places.values()), start=1):
        record = few[place]
        try:
            given = fitted.attention(model, record)
        except AttentuneError:  # an attention that cannot say where it looks
            return ()
        if given is None:
            return ()
        read, wrote, weights = given
        found.append(
            Look(
                file=f"attention-{number}.png",
                title=names[place],
                where=record.where,
                asked=_asked(fitted, record),
                said=" ".join(str(answers[place].value).split()),
                read=tuple(read[:CELLS]),
                wrote=tuple(wrote[:CELLS]),
                weights=weights[:CELLS, :CELLS].float().cpu().numpy(),
            )
        )
    return tuple(found)


def _asked(fitted: Fitted, record: Record) -> str:
    held = [record[column] for column in fitted.task.asked]
    return " | ".join(" ".join(str(part) for part in (one if isinstance(one, list) else [one])) for one in held)


def _size(text: str) -> int:
    words = len(text.split())
    return words if words > 1 else len(text.strip())
