"""What multi-head, grouped and multi-query attention share: plain projections to heads and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import sqrt

from pydantic import PositiveInt
from torch.nn.functional import linear

from attentune.errors import SpecError
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Parameter, Params, constant, normal
from attentune.spec.slots import Heads


class ProjectedHeads(Heads):
    """q = W_q x, k = W_k x, v = W_v x, y = W_o o; one matrix for q, k, v where x is the same."""

    heads: PositiveInt
    head_width: PositiveInt | None = None  # columns of a head; None: width / heads

    @property
    @abstractmethod
    def key_value_heads(self) -> int:
        """G."""

    def width_of_head(self, width: int) -> int:
        if self.head_width is not None:
            return self.head_width
        if width % self.heads:
            raise SpecError(f"heads must divide the width, got heads={self.heads}, width={width}")
        return width // self.heads

    def dims(self, *, width: int, source_width: int, depth: int, bias: bool, cross: bool) -> Dims:
        head_width = self.width_of_head(width)
        return Dims(
            width=width,
            heads=self.heads,
            groups=self.key_value_heads,
            head_width=head_width,
            value_width=head_width,
            source_width=source_width,
            depth=depth,
            bias=bias,
            cross=cross,
        )

    def parameters(self, dims: Dims) -> dict[str, Parameter]:
        q, kv = dims.heads * dims.head_width, dims.groups * (dims.head_width + dims.value_width)
        rows = {"q": (q, dims.width), "kv": (kv, dims.source_width)} if dims.cross else {"qkv": (q + kv, dims.width)}
        rows["out"] = (dims.width, dims.heads * dims.value_width)
        declared = {name: Parameter(shape, normal(0.02), weight_decay=True) for name, shape in rows.items()}
        declared["out"] = Parameter(rows["out"], normal(0.02 / sqrt(2 * dims.depth)), weight_decay=True)
        if dims.bias:
            declared |= {f"{name}_bias": Parameter((shape[0],), constant(0.0)) for name, shape in rows.items()}
        return declared

    def project(
        self, params: Params, dims: Dims, x: Float[Tensor, "B Q E"], source: Float[Tensor, "B K F"] | None
    ) -> tuple[Float[Tensor, "B H Q D"], dict[str, Tensor]]:
        q_columns, k_columns = dims.heads * dims.head_width, dims.groups * dims.head_width
        v_columns = dims.groups * dims.value_width
        if dims.cross:
            assert source is not None
            q = linear(x, params["q"], params.get("q_bias"))
            k, v = linear(source, params["kv"], params.get("kv_bias")).split([k_columns, v_columns], -1)
        elif source is None:
            q, k, v = linear(x, params["qkv"], params.get("qkv_bias")).split([q_columns, k_columns, v_columns], -1)
        else:  # keys of a longer sequence than the queries: memory
            w_q, w_kv = params["qkv"].split([q_columns, k_columns + v_columns])
            b_q, b_kv = params["qkv_bias"].split([q_columns, k_columns + v_columns]) if dims.bias else (None, None)
            q, (k, v) = linear(x, w_q, b_q), linear(source, w_kv, b_kv).split([k_columns, v_columns], -1)
        entries = {"k": _heads(k, dims.head_width), "v": _heads(v, dims.value_width)}
        return _heads(q, dims.head_width), entries

    def expand(
        self, params: Params, dims: Dims, entries: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B G K D"], Float[Tensor, "B G K V"]]:
        return entries["k"], entries["v"]

    def output(self, params: Params, dims: Dims, o: Float[Tensor, "B H Q V"]) -> Float[Tensor, "B Q E"]:
        return linear(o.transpose(1, 2).flatten(2), params["out"], params.get("out_bias"))

    def entry_shapes(self, dims: Dims) -> dict[str, tuple[int, int]]:
        return {"k": (dims.groups, dims.head_width), "v": (dims.groups, dims.value_width)}


def _heads(x: Float[Tensor, "B T ND"], width: int) -> Float[Tensor, "B N T D"]:
    split: Tensor = x.unflatten(-1, (-1, width))
    return split.transpose(1, 2)
