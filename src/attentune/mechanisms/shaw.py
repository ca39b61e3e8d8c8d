"""Relative position representations (Shaw, Uszkoreit, Vaswani, arXiv:1803.02155).

    s_ij = q_i . (k_j + a^K_ij) scale
    o_i  = sum_j p_ij (v_j + a^V_ij)
    a_ij = w[clip(j - i, -k, k)]         k = `distance`; one vector for each of the 2 k + 1 distances

The vectors are shared by the heads of a layer, as in the paper. Beyond k all distances are alike.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import PositiveInt

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, normal
from attentune.spec.positions import Positions
from attentune.spec.slots import RelativePosition


@final
class Shaw(RelativePosition):
    """A learned vector for each distance, added to keys and, unless `on_values` is false, to values."""

    kind: Literal["shaw"] = "shaw"
    distance: PositiveInt  # beyond it distances are clipped
    on_values: bool = True

    @property
    def adds_values(self) -> bool:
        return self.on_values

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        count = 2 * self.distance + 1
        declared = {"keys": Parameter((count, dims.head_width), normal(0.02))}
        if self.on_values:
            declared["values"] = Parameter((count, dims.value_width), normal(0.02))
        return declared

    def scores(
        self,
        params: Params,
        dims: Dims,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        query: Positions,
        key: Positions,
        scale: float,
    ) -> Float[Tensor, "B H Q K"]:
        every = q @ params["keys"].to(q.dtype).T * scale  # q_i . a^K scale, for each distance
        return every.gather(-1, self._row(query, key).expand(*q.shape[:3], k.shape[2]))

    def values(
        self, params: Params, dims: Dims, p: Float[Tensor, "B H Q K"], query: Positions, key: Positions
    ) -> Float[Tensor, "B H Q V"] | None:
        if not self.on_values:
            return None
        mass = p.new_zeros(*p.shape[:3], 2 * self.distance + 1)  # sum of p_ij over the keys at each distance
        mass = mass.scatter_add(-1, self._row(query, key).expand(p.shape), p)
        return mass @ params["values"].to(p.dtype)

    def _row(self, query: Positions, key: Positions) -> Int[Tensor, "..."]:
        """The row of the tables: clip(j - i, -k, k) + k."""
        return (key.position - query.position).clamp(-self.distance, self.distance) + self.distance
