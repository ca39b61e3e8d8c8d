"""Temperature of the scores.

    s -> s / t_h        t = `value` at first; learned in each head as t_h = value exp(log_t_h)

It stands in the order of the scores: before a soft cap it sharpens what is capped.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import ElementwiseScore


@final
class Temperature(ElementwiseScore):
    """Divides the scores: below 1 sharpens attention, above 1 flattens it."""

    kind: Literal["temperature"] = "temperature"
    is_factor: ClassVar[bool] = True
    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    learned: bool = True

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"log_t": Parameter((dims.heads,), constant(0.0))} if self.learned else {}

    @property
    def step(self) -> StepForm:
        return StepForm.MULTIPLY_BY_QUERY

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        if not self.learned:
            return s / self.value
        return s * ((-params["log_t"][head]).exp() / self.value).to(s.dtype)

    def query_factor(self, params: Params) -> Float[Tensor, "H"] | float | None:
        return (-params["log_t"]).exp() / self.value if self.learned else 1 / self.value
