"""Scores that grow with the logarithm of the context (arXiv:2202.12172; Scalable-Softmax, arXiv:2501.19399).

    s_ij -> s_ij log(n_i) / log(reference),    n_i = position of i + 1
    s_ij -> s_ij c_h log(n_i)                  learned: c_h = 1 / log(reference) at first

Softmax flattens as more keys share its weight; this keeps it as sharp over n keys as it is over
`reference`. n counts the keys of i's document up to i itself, as causal attention sees them, whatever the mask shows.
"""

from __future__ import annotations

from math import log
from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from attentune.shapes import Float, Int, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.positions import Positions
from attentune.spec.score_steps import StepForm
from attentune.spec.slots import ElementwiseScore


@final
class LengthTemperature(ElementwiseScore):
    """Sharpens attention as the context grows; at `reference` keys nothing changes."""

    kind: Literal["length_temperature"] = "length_temperature"
    needs_order: ClassVar[bool] = True
    reference: Annotated[int, Field(ge=2)] = 512
    learned: bool = False

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        return {"factor": Parameter((dims.heads,), constant(1 / log(self.reference)))} if self.learned else {}

    @property
    def step(self) -> StepForm:
        return StepForm.MULTIPLY_BY_QUERY

    def modify(
        self, params: Params, s: Float[Tensor, "..."], query: Positions, key: Positions, head: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        log_n = (query.position + 1).clamp(min=1).to(s.dtype).log()
        if not self.learned:
            return s * (log_n / log(self.reference))
        return s * (log_n * params["factor"][head].to(s.dtype))
