"""Figures of models that predict tokens of texts: loss, perplexity, bits for each character and byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from attentune.errors import DataError
from attentune.tasks.task import Prediction, Scores

LARGEST = 700.0  # nats, beyond which e^x is no number


@dataclass
class Tally:
    """What was predicted of a text: the sum of the losses in nats, tokens, how many of them were the likeliest, and
    the characters and bytes of UTF-8 that they hold."""

    nats: float = 0.0
    tokens: int = 0
    right: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, other: Mapping[str, float]) -> None:
        """Takes over what another one counted."""
        self.nats += float(other["nats"])
        self.tokens += int(other["tokens"])
        self.right += int(other["right"])
        self.characters += int(other["characters"])
        self.bytes += int(other["bytes"])

    def values(self) -> dict[str, float]:
        """`accuracy` of the likeliest token, `loss` in nats a token, `perplexity`, bits a character and a byte."""
        mean, bits = self.nats / self.tokens, self.nats / math.log(2)
        return {
            "accuracy": self.right / self.tokens,
            "loss": mean,
            "perplexity": math.exp(mean) if mean < LARGEST else math.inf,
            "bits_per_character": bits / self.characters if self.characters else math.inf,
            "bits_per_byte": bits / self.bytes if self.bytes else math.inf,
        }

    def as_fields(self) -> dict[str, float]:
        """For the fields of a prediction, to be read by people too."""
        return {**asdict(self), "nats": round(self.nats, 6)}


NOT_COUNTED: dict[str, None] = dict.fromkeys(Tally().as_fields())  # the fields of a text of which nothing is predicted


def totalled(predictions: Sequence[Prediction], main: str, how: str) -> Scores:
    """The figures of all predictions together, each token counting the same; `how` says how they came about.

    Raises:
        DataError: no token of the records was predicted.
    """
    total = Tally()
    for one in predictions:
        if one.fields.get("nats") is not None:
            total.add(one.fields)
    if not total.tokens:
        raise DataError("the records hold no text of which a token could be predicted")
    return Scores(total.values(), main, signatures={"loss": how}, details={"tokens": total.tokens})
