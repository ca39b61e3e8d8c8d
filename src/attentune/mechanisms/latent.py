"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434).

    c = RMSNorm(W_c x)                 the latent, all that is cached of keys and values
    k = [W_uk c ; rotate(W_r x)]       the rotary key is shared by the heads and cached beside c
    v = W_uv c
    q = [W_q x ; rotate(W_qr x)]

What is cached does not grow with the number of heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.nn.functional import linear, rms_norm

from attentune.errors import SpecError
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.slots import Heads


@final
class Latent(Heads):
    """Keys and values from a latent of `rank` numbers a token, with `rotary` decoupled columns."""

    kind: Literal["latent"] = "latent"
    heads: PositiveInt
    rank: PositiveInt  # width of the latent
    rotary: NonNegativeInt = 0  # columns of q and k that rotary positions turn, beside width / heads others

    def dims(self, *, width: int, source_width: int, depth: int, bias: bool, cross: bool) -> Dims:
        if width % self.heads:
            raise SpecError(f"heads must divide the width, got heads={self.heads}, width={width}")
        if self.rotary % 2:
            raise SpecError(f"rotary columns come in pairs, got rotary={self.rotary}")
        value_width = width // self.heads
        return Dims(
            width=width,
            heads=self.heads,
            groups=self.heads,
            head_width=value_width + self.rotary,
            value_width=value_width,
            source_width=source_width,
            depth=depth,
            bias=bias,
            cross=cross,
        )

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        plain = dims.heads * dims.value_width
        rows = {
            "q": (dims.heads * dims.head_width, dims.width),
            "down": (self.rank + self.rotary, dims.source_width),
            "up_k": (plain, self.rank),
            "up_v": (plain, self.rank),
        }
        declared = {name: Parameter(shape, normal(0.02), weight_decay=True) for name, shape in rows.items()}
        declared["norm"] = Parameter((self.rank,), constant(1.0))
        declared["out"] = Parameter((dims.width, plain), normal(0.02 / sqrt(2 * dims.depth)), weight_decay=True)
        if dims.bias:
            biased = {"q": rows["q"][0], "down": rows["down"][0], "out": dims.width}
            declared |= {f"{name}_bias": Parameter((size,), constant(0.0)) for name, size in biased.items()}
        return declared

    def project(
        self, params: Params, dims: Dims, x: Float[Tensor, "B Q E"], source: Float[Tensor, "B K F"] | None
    ) -> tuple[Float[Tensor, "B H Q D"], dict[str, Tensor]]:
        q = linear(x, params["q"], params.get("q_bias")).unflatten(-1, (dims.heads, dims.head_width)).transpose(1, 2)
        down = linear(x if source is None else source, params["down"], params.get("down_bias"))
        latent, turned = down.split([self.rank, self.rotary], -1)
        latent = rms_norm(latent, (self.rank,), params["norm"], 1e-6)
        entries = {"latent": latent[:, None]}
        if self.rotary:
            entries["rotary_key"] = turned[:, None]
        return q, entries

    def expand(
        self, params: Params, dims: Dims, entries: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B G K D"], Float[Tensor, "B G K V"]]:
        latent = entries["latent"][:, 0]
        k = linear(latent, params["up_k"]).unflatten(-1, (dims.heads, -1)).transpose(1, 2)
        v = linear(latent, params["up_v"]).unflatten(-1, (dims.heads, -1)).transpose(1, 2)
        if self.rotary:
            k = torch.cat([k, entries["rotary_key"].expand(-1, dims.heads, -1, -1)], -1)
        return k, v

    def output(self, params: Params, dims: Dims, o: Float[Tensor, "B H Q V"]) -> Float[Tensor, "B Q E"]:
        return linear(o.transpose(1, 2).flatten(2), params["out"], params.get("out_bias"))

    def entry_shapes(self, dims: Dims) -> dict[str, tuple[int, int]]:
        shapes = {"latent": (1, self.rank)}
        return {**shapes, "rotary_key": (1, self.rotary)} if self.rotary else shapes

    @property
    def keeps_keys(self) -> bool:
        return False

    def rotated(self, dims: Dims) -> tuple[str, int]:
        return "rotary_key", self.rotary
