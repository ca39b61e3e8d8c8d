"""The gate of the Residual Attention Network (arXiv:1704.06904).

    o -> (1 + M(x)) * T(x),    T(x) = o,  M(x) = sigmoid(W x)        one M a head, or one for each of its columns

M strengthens what attention found by up to twice and can never silence it. Where M is 0 this is plain attention;
with W = 0 it is 1.5 times that.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.mechanisms._token_gate import TokenGate
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Params


@final
class ResidualGate(TokenGate):
    """A gate that only adds: the query's own token says how much more of the output to take."""

    kind: Literal["residual_gate"] = "residual_gate"

    def combine(
        self,
        params: Params,
        dims: Dims,
        o: Float[Tensor, "B H Q V"],
        x: Float[Tensor, "B Q E"],
        q: Float[Tensor, "B H Q D"],
    ) -> Float[Tensor, "B H Q V"]:
        return (1 + self.gate(params, dims, x)) * o
