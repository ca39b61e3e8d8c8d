"""Gated attention output (arXiv:2505.06708).

    o -> o * sigmoid(W x)        one gate a head, or one for each of its columns

A gate that is closed lets a head say nothing, without a sink among the keys.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.mechanisms._token_gate import TokenGate
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Params


@final
class Gate(TokenGate):
    """A gate that the query's own token computes."""

    kind: Literal["gate"] = "gate"

    def combine(
        self,
        params: Params,
        dims: Dims,
        o: Float[Tensor, "B H Q V"],
        x: Float[Tensor, "B Q E"],
        q: Float[Tensor, "B H Q D"],
    ) -> Float[Tensor, "B H Q V"]:
        return o * self.gate(params, dims, x)
