"""Cosine attention (neural Turing machines, arXiv:1410.5401; Swin Transformer V2, arXiv:2111.09883).

    s = q . k / (|q| |k| tau_h)        tau = `tau` at first; learned in each head as tau_h = tau exp(log_tau_h)

Scores stay within 1 / tau however long queries and keys grow. A vector of zeros has cosine 0 with all.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import Similarity


@final
class Cosine(Similarity):
    """The cosine of the angle between query and key, over a temperature."""

    kind: Literal["cosine"] = "cosine"
    by_angle: ClassVar[bool] = True
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    learned: bool = True

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"log_tau": Parameter((dims.heads,), constant(0.0))} if self.learned else {}

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        cosine = torch.matmul(_unit(q), _unit(k).transpose(-1, -2))
        if not self.learned:
            return cosine / self.tau
        tau = self.tau * params["log_tau"].to(q.dtype).exp()
        return cosine / tau[:, None, None]


def _unit(x: Float[Tensor, "B H T D2"]) -> Float[Tensor, "B H T D2"]:
    """x / |x|; zeros stay zeros, with a gradient that is finite."""
    square = x.square().sum(-1, keepdim=True)
    return x / torch.where(square > 0, square, 1.0).sqrt()
