"""A constant factor on the scores (arXiv:1706.03762).

    s -> c s

The paper's 1 / sqrt(D) is the scale of the similarity. This one stands in the order of the scores: after a bias
by position, or between a soft cap and the normaliser.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import ElementwiseScore


@final
class Scale(ElementwiseScore):
    """Multiplies the scores: above 1 sharpens attention, below 1 flattens it."""

    kind: Literal["scale"] = "scale"
    is_factor: ClassVar[bool] = True
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @property
    def step(self) -> StepForm:
        return StepForm.MULTIPLY_BY_QUERY

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        return s * self.factor

    def query_factor(self, params: Params) -> Float[Tensor, "H"] | float | None:
        return self.factor
