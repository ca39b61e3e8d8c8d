"""Value residual learning (ResFormer, arXiv:2410.17897).

    v_l -> l1 v_l + l2 v_1        v_1: the values of the first layer, for the same token and head

In the first layer itself both are one, so that with l1 + l2 = 1 it is plain.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import FiniteFloat

from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import CarriedValue


@final
class ValueResidual(CarriedValue):
    """Every layer sums its own values and those of the first layer, with two numbers a layer."""

    kind: Literal["value_residual"] = "value_residual"
    own: FiniteFloat = 0.5  # l1
    first: FiniteFloat = 0.5  # l2
    learned: bool = True  # whether the two numbers only begin there

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        if not self.learned:
            return {}
        return {"own": Parameter((1,), constant(self.own)), "first": Parameter((1,), constant(self.first))}

    def mix(
        self, params: Params, v: Float[Tensor, "B G K V"], carried: Float[Tensor, "B G K V"] | None
    ) -> tuple[Float[Tensor, "B G K V"], Float[Tensor, "B G K V"]]:
        first = v if carried is None else carried
        own, share = (params["own"], params["first"]) if self.learned else (self.own, self.first)
        return own * v + share * first, first
