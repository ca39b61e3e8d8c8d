"""Any similarity of your own, by the name you register it under.

    s_ij = f(q_i, k_j)        with `heads=single(projected=false)` of the tokens themselves: f(x_i, x_j)

`register` keeps the function, in the program or in a file for `--plugin`; then say `similarity=function(manhattan)`. A
spec keeps the name, never the code: whoever reads it registers the function first. It learns nothing of its own; a
similarity with parameters is a mechanism, one file with a class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, final

import torch
from pydantic import field_validator

from attentune.errors import SpecError
from attentune.mechanisms._named import NamedFunctions
from attentune.shapes import Float, Tensor
from attentune.spec.mechanism import Dims, Params
from attentune.spec.slots import Similarity

PairFunction = Callable[[Tensor, Tensor], Tensor]
PairFunctionT = TypeVar("PairFunctionT", bound=PairFunction)

_functions: NamedFunctions[PairFunction] = NamedFunctions("function", "function")


def register(name: str) -> Callable[[PairFunctionT], PairFunctionT]:
    """Decorator: keep a function of two vectors under `name`, so that `similarity=function(name)` finds it.

        from attentune.mechanisms import function

        @function.register("manhattan")
        def manhattan(q: Tensor, k: Tensor) -> Tensor:
            return -(q - k).abs().sum(-1)

    The function gets queries [B H Q 1 D] and keys [B H 1 K D], in float32 or float64, and returns scores [B H Q K]; it
    must be differentiable where the model is trained. A name belongs to one function: `SpecError` where another has it.
    """
    _functions.check_name(name)

    def keep(function: PairFunctionT) -> PairFunctionT:
        _functions.register(name, function)
        return function

    return keep


@final
class Function(Similarity):
    """The function registered as `name`; memory grows with Q x K x D where it compares column by column."""

    kind: Literal["function"] = "function"
    name: str

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        return _functions.check_known(name)

    def scores(
        self, params: Params, dims: Dims, q: Float[Tensor, "B H Q D2"], k: Float[Tensor, "B H K D2"]
    ) -> Float[Tensor, "B H Q K"]:
        s = _functions[self.name](q[:, :, :, None], k[:, :, None])
        wanted = (*q.shape[:3], k.shape[2])
        if not isinstance(s, Tensor) or s.dtype is not q.dtype:
            given = s.dtype if isinstance(s, Tensor) else type(s).__name__
            raise SpecError(f"function {self.name!r} must return a tensor of {q.dtype} as it gets, got {given}")
        try:
            return s.expand(torch.broadcast_shapes(s.shape, wanted)).view(wanted)
        except RuntimeError:
            raise SpecError(
                f"function {self.name!r} must return one score for each query and key: "
                f"{list(wanted)} from {[*wanted[:3], 1, q.shape[-1]]} and {[*wanted[:2], 1, wanted[3], q.shape[-1]]}, "
                f"got {list(s.shape)}"
            ) from None
