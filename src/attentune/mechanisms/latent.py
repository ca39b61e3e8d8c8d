"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434).

    c = RMSNorm(W_c x)                      the latent of `rank` numbers, all that is cached of keys and values
    k = [W_uk c ; rotate(W_r x)]            the rotary key is shared by the heads and cached beside c
    v = W_uv c
    q = [W_q x ; rotate(W_qr x)]            with `query_rank` from RMSNorm(W_cq x) in the place of x
    s = q . k / sqrt(D),   D = key_width + rotary

What is cached does not grow with the number of heads. DeepSeek-V3 is `latent(128, 512, rotary=64,
query_rank=1536, key_width=128, value_width=128)` with `position=rotary_yarn(..., pairs=neighbours)`.
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

EPSILON = 1e-6  # of the norms of the latents, as published


@final
class Latent(Heads):
    """Keys and values from a latent of `rank` numbers a token, with `rotary` decoupled columns."""

    kind: Literal["latent"] = "latent"
    heads: PositiveInt
    rank: PositiveInt  # width of the latent
    rotary: NonNegativeInt = 0  # columns of q and k that rotary positions turn, beside `key_width` others
    query_rank: PositiveInt | None = None  # width of the queries' own latent, which is not cached; None: no latent
    key_width: PositiveInt | None = None  # columns of q and k that are not turned; None: width / heads
    value_width: PositiveInt | None = None  # columns of v; None: width / heads

    def dims(self, *, width: int, source_width: int, depth: int, bias: bool, cross: bool) -> Dims:
        if width % self.heads and None in (self.key_width, self.value_width):
            raise SpecError(f"heads must divide the width, got heads={self.heads}, width={width}")
        if self.rotary % 2:
            raise SpecError(f"rotary columns come in pairs, got rotary={self.rotary}")
        return Dims(
            width=width,
            heads=self.heads,
            groups=self.heads,
            head_width=(self.key_width or width // self.heads) + self.rotary,
            value_width=self.value_width or width // self.heads,
            source_width=source_width,
            depth=depth,
            bias=bias,
            cross=cross,
        )

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        rows = {
            "q": (dims.heads * dims.head_width, self.query_rank or dims.width),
            "latent": (self.rank + self.rotary, dims.source_width),
            "up_k": (dims.heads * (dims.head_width - self.rotary), self.rank),
            "up_v": (dims.heads * dims.value_width, self.rank),
        }
        if self.query_rank is not None:
            rows["q_latent"] = (self.query_rank, dims.width)
        declared = {name: Parameter(shape, normal(0.02), weight_decay=True) for name, shape in rows.items()}
        declared["norm"] = Parameter((self.rank,), constant(1.0))
        if self.query_rank is not None:
            declared["q_norm"] = Parameter((self.query_rank,), constant(1.0))
        out = (dims.width, dims.heads * dims.value_width)
        declared["out"] = Parameter(out, normal(0.02 / sqrt(2 * dims.depth)), weight_decay=True)
        if dims.bias:
            first = "q" if self.query_rank is None else "q_latent"
            biased = {first: rows[first][0], "latent": rows["latent"][0], "out": dims.width}
            declared |= {f"{name}_bias": Parameter((size,), constant(0.0)) for name, size in biased.items()}
        return declared

    def project(
        self, params: Params, dims: Dims, x: Float[Tensor, "B Q E"], source: Float[Tensor, "B K F"] | None
    ) -> tuple[Float[Tensor, "B H Q D"], dict[str, Tensor]]:
        asking = x
        if self.query_rank is not None:
            asking = linear(x, params["q_latent"], params.get("q_latent_bias"))
            asking = rms_norm(asking, (self.query_rank,), params["q_norm"], EPSILON)
        q = linear(asking, params["q"], params.get("q_bias"))
        q = q.unflatten(-1, (dims.heads, dims.head_width)).transpose(1, 2)
        seen = linear(x if source is None else source, params["latent"], params.get("latent_bias"))
        latent, turned = seen.split([self.rank, self.rotary], -1)
        latent = rms_norm(latent, (self.rank,), params["norm"], EPSILON)
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
