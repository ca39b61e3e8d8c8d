"""Gaussian kernel (Nadaraya, 1964; Watson, 1964; as attention in SOFT, arXiv:2110.11945).

    s = -|q - k|^2 / (2 sigma_h^2)      sigma = `sigma` at first; where `learned`, sigma_h = sigma exp(log_sigma_h)

With softmax it is the kernel regression of Nadaraya and Watson: o_i = sum_j K(q_i - k_j) v_j / sum_j
K(q_i - k_j). Unless said, sigma is the fourth root of the head width, at which the part q . k is
divided by sqrt(D) as in the scaled dot product.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import Similarity


@final
class Gaussian(Similarity):
    """Scores fall with the square of the distance between query and key."""

    kind: Literal["gaussian"] = "gaussian"
    by_angle: ClassVar[bool] = True
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # None: head width ^ (1/4)
    learned: bool = False

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"log_sigma": Parameter((dims.heads,), constant(0.0))} if self.learned else {}

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        sigma = dims.head_width**0.25 if self.sigma is None else self.sigma
        # |q - k|^2 = |q|^2 - 2 q.k + |k|^2: no tensor holds every difference
        between = 2 * torch.matmul(q, k.transpose(-1, -2))
        square = q.square().sum(-1)[..., None] - between + k.square().sum(-1)[..., None, :]
        s = -square / (2 * sigma**2)
        return s * (-2 * params["log_sigma"].to(q.dtype)).exp()[:, None, None] if self.learned else s
