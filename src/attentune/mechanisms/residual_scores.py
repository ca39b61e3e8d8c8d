"""Residual scores (RealFormer, arXiv:2012.11747).

    S_l = q_l . k_l / sqrt(D) + S_{l-1}

Since nothing changes S between the layers, it is one inner product of longer vectors:
S_l = [q_1 ... q_l] . [k_1 ... k_l] / sqrt(D). What passes from layer to layer are those vectors.
"""

from __future__ import annotations

from typing import Literal, final

import torch

from attentune.shapes import Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import CarriedScore


@final
class ResidualScores(CarriedScore):
    """Each layer adds its scores to those of the layers below."""

    kind: Literal["residual_scores"] = "residual_scores"

    def columns(
        self, params: Params, q: Tensor, k: Tensor, carry: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        if carry is None:
            return q, k
        return torch.cat([carry[0], q], -1), torch.cat([carry[1], k], -1)
