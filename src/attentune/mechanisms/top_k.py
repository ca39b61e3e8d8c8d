"""Softmax over the largest scores (Explicit Sparse Transformer, arXiv:1912.11637).

    p_ij = exp(s_ij) / sum over T_i of exp(s_ik),    T_i = the visible j with s_ij >= the k-th largest visible score

As in the paper, scores that tie with the k-th all stay: what is chosen depends on no order of the keys.
Where no more than k keys are visible it is softmax.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from pydantic import PositiveInt

from attentune.mechanisms._visible import over_visible
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.slots import Normalizer


@final
class TopK(Normalizer):
    """Weights that sum to 1 over a query's `keys` best keys; no gradient reaches the others."""

    kind: Literal["top_k"] = "top_k"
    online: ClassVar[bool] = False
    keys: PositiveInt

    def weights(
        self, params: Params, s: Float[Tensor, "B H Q K"], visible: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "B H Q K"]:
        return over_visible(self._of_largest, s, visible)

    def _of_largest(self, s: Tensor) -> Tensor:
        if self.keys < s.shape[-1]:
            least = s.detach().topk(self.keys, -1).values[..., -1:]
            s = s.masked_fill(s < least, float("-inf"))
        return s.softmax(-1)
