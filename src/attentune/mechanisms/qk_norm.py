"""Normalised queries and keys (arXiv:2010.04245; with RMSNorm as in arXiv:2302.05442 and Qwen3).

    q -> g_q q / rms(q),    k -> g_k k / rms(k)        over the columns of each head

It acts before positions turn q and k, which keeps their length.
"""

from __future__ import annotations

from typing import Literal, final

from torch.nn.functional import rms_norm

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import OperandScore


@final
class QKNorm(OperandScore):
    """Bounds the scores, so that they cannot grow without limit while training."""

    kind: Literal["qk_norm"] = "qk_norm"

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {name: Parameter((dims.head_width,), constant(1.0)) for name in ("q_gain", "k_gain")}

    def operands(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D"], k: Float[Tensor, "B G K D"]
    ) -> tuple[Float[Tensor, "B H Q D"], Float[Tensor, "B G K D"]]:
        width = (dims.head_width,)
        return rms_norm(q, width, params["q_gain"], 1e-6), rms_norm(k, width, params["k_gain"], 1e-6)
