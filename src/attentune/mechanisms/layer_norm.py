"""Layer normalisation as a branch beside attention (arXiv:1607.06450).

    y = gain (x - mean) / sqrt(var + 1e-5) + bias

The layer's output is attention(x) + LayerNorm(x), and with an LSTM beside it attention(x) + LayerNorm(x) + LSTM(x).
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from torch.nn.functional import layer_norm

from attentune.mechanisms._matrix_state import accumulating
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant
from attentune.spec.slots import Mixer


@final
class LayerNormBranch(Mixer):
    """Each token by itself, so that there is no state; the bias is there where the model's linear layers have one."""

    kind: Literal["layer_norm"] = "layer_norm"
    forms: ClassVar[tuple[str, ...]] = ("parallel",)

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        declared = {"gain": Parameter((dims.width,), constant(1.0))}
        if dims.bias:
            declared["bias"] = Parameter((dims.width,), constant(0.0))
        return declared

    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        return {}

    def mix(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
        form: str = "auto",
    ) -> tuple[Float[Tensor, "B T E"], dict[str, Tensor]]:
        self.chosen(form, x.shape[1])
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        dtype, bias = accumulating(x.dtype), params.get("bias")
        shift = None if bias is None else bias.to(dtype)
        y = layer_norm(x.to(dtype), x.shape[-1:], params["gain"].to(dtype), shift, 1e-5).to(x.dtype)
        return (y if valid is None else y.masked_fill(~valid[..., None], 0.0)), {}
