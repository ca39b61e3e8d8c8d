"""Pieces of text that are looked up whole: what a token is told of those before it.

A text of few tokens says much by its pairs of them (`not good`, a word of two Chinese characters), which attention has
to learn to put together. Here each pair, or longer piece, has a vector of its own from the start:

    x_t = table[token_t] + sum over n = 2 ... longest of table_n[hash(token_{t-n+1}, ..., token_t) mod buckets]

Bags of n-grams (fastText, arXiv:1607.01759), hashed because there are too many to list, added to what goes into the
first layer (arXiv:2412.09871, section 3.2.1). The vectors begin at zero: a piece that
training never showed adds nothing.
"""

from __future__ import annotations

from typing import Annotated, final

from pydantic import Field

from attentune.spec.value import Frozen


@final
class NgramSpec(Frozen):
    """How long the pieces are, and how many vectors they share."""

    longest: Annotated[int, Field(ge=2, le=8)] = 2  # tokens of a piece
    buckets: Annotated[int, Field(ge=1)] = 50_000  # vectors for the pieces of each length
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # the share of pieces that a training step leaves out
