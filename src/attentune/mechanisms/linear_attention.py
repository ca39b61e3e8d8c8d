"""Linear attention (arXiv:2006.16236), and its random features (FAVOR+, arXiv:2009.14794).

    y_i = f(q_i)^T S_i / f(q_i)^T z_i,    S_i = sum over j <= i of f(k_j) v_j^T,    z_i = sum over j <= i of f(k_j)

`elu`:     f(x) = elu(x) + 1
`random`:  f(x) = exp(W x - |x|^2 / 2) / sqrt(m), with x scaled by D^(-1/4), so that f(q) . f(k) is exp(q . k / sqrt(D))
           in the mean: softmax attention without its quadratic cost. The m rows of W are normal, in orthogonal
           groups of D; they are drawn from `seed`, not trained.
"""

from functools import lru_cache
from typing import Any, Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.nn.functional import pad, relu

from attentune.mechanisms._linear_mixer import LinearMixer
from attentune.mechanisms._matrix_state import Tokens, accumulating
from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Dims, Params


@final
class LinearAttention(LinearMixer):
    """Attention whose weights are inner products of features, so that a state of fixed size holds the past.

    One wide head remembers more than several narrow ones: the state holds D x V numbers a head.
    """

    kind: Literal["linear_attention"] = "linear_attention"
    heads: PositiveInt = 1
    features: Literal["elu", "random"] = "elu"
    conv: NonNegativeInt = 0  # tokens that a convolution over q, k and v sees, with SiLU after it; 0 for none
    directions: PositiveInt = 64  # m, of random features
    seed: NonNegativeInt = 0  # of random features

    def state_shape(self, head_width: int) -> tuple[int, int]:
        return (head_width if self.features == "elu" else self.directions), head_width + 1  # S and, as a column, z

    def init(self, dims: Dims, batch: int, like: Tensor) -> dict[str, Tensor]:
        state = super().init(dims, batch, like)
        if self.features == "random":
            state["scale"] = like.new_full((batch, self.heads), -torch.inf, dtype=accumulating(like.dtype))
        return state

    def read(
        self,
        params: Params,
        x: Float[Tensor, "B T E"],
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H T D"],
        v: Float[Tensor, "B H T V"],
        state: dict[str, Tensor],
        valid: Bool[Tensor, "B T"] | None,
        starts: Bool[Tensor, "B T"] | None,
    ) -> tuple[Tokens, dict[str, Tensor]]:
        v = pad(v, (0, 1), value=1.0)
        if self.features == "elu":
            return Tokens(_elu_plus_one(q), _real(_elu_plus_one(k), valid), v, starts=starts), {}
        w = random_directions(self.directions, q.shape[-1], self.seed, q.detach())
        q, k = (_exponents(side, w) for side in (q, k))
        # y does not change when all f(q_i), or all f(k_j) and the state, are scaled: the largest so far becomes 1.
        q = q - q.detach().amax(-1, keepdim=True)
        peak = k.detach().amax(-1)  # [B H T]
        if valid is not None:
            peak = peak.masked_fill(~valid[:, None], -torch.inf)
        held = state["scale"].to(q.dtype)
        largest = _running_maximum(peak, held, starts)
        before = torch.cat([held[..., None], largest[..., :-1]], -1)
        falls = (before - largest).masked_fill(before == -torch.inf, 0.0)
        if starts is not None:
            falls = falls.masked_fill(starts[:, None], 0.0)
        k = (k - largest.masked_fill(largest == -torch.inf, 0.0)[..., None]).exp()
        return Tokens(q.exp(), _real(k, valid), v, falls, starts=starts), {"scale": largest[..., -1]}

    def write(self, params: Params, x: Float[Tensor, "B T E"], o: Float[Tensor, "B H T W"]) -> Float[Tensor, "B T HV"]:
        o, total = o[..., :-1], o[..., -1:]
        shared: Tensor = o / total.masked_fill(total == 0, 1.0)
        return shared.transpose(1, 2).flatten(2)


def _real(k: Float[Tensor, "B H T D"], valid: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B H T D"]:
    """Keys without those of padding, which the state and its normaliser shall not hold."""
    return k if valid is None else k.masked_fill(~valid[:, None, :, None], 0.0)


def _elu_plus_one(x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
    """x + 1 where x > 0, exp(x) elsewhere; the compiler mistakes the strides of the gradient of torch's own elu."""
    return relu(x) + x.clamp(max=0.0).exp()


def _exponents(x: Float[Tensor, "B H T D"], w: Float[Tensor, "M D"]) -> Float[Tensor, "B H T M"]:
    """log f(x), but for the constant sqrt(m), which the quotient does not hold."""
    x = x * x.shape[-1] ** -0.25
    exponents: Tensor = x @ w.T - x.square().sum(-1, keepdim=True) / 2
    return exponents


def _running_maximum(
    peak: Float[Tensor, "B H T"], held: Float[Tensor, "B H"], starts: Bool[Tensor, "B T"] | None
) -> Float[Tensor, "B H T"]:
    """The largest value of a token's document so far; `held` is that of the first document before its first token."""
    if starts is None:
        return torch.maximum(peak.cummax(-1).values, held[..., None])
    document = starts.cumsum(-1)[:, None]
    largest = torch.where(document == 0, torch.maximum(peak, held[..., None]), peak)
    step = 1
    while step < peak.shape[-1]:  # after each round a token has seen twice as many
        same = document[..., step:] == document[..., :-step]
        earlier = largest[..., :-step].masked_fill(~same, -torch.inf)
        largest = torch.cat([largest[..., :step], torch.maximum(largest[..., step:], earlier)], -1)
        step *= 2
    return largest


@lru_cache(maxsize=64)
def _drawn(count: int, width: int, seed: int) -> Tensor:
    """`count` normal directions, orthogonal inside each group of `width`, with the lengths of independent draws."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-count // width)
    normals = torch.randn(groups, width, width, generator=generator, dtype=torch.float64)
    orthogonal, triangle = torch.linalg.qr(normals)
    orthogonal = orthogonal * triangle.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # signs that QR does not choose
    lengths = torch.randn(groups, width, width, generator=generator, dtype=torch.float64).norm(dim=-1)
    directions: Tensor = (orthogonal.transpose(-1, -2) * lengths[..., None]).flatten(0, 1)
    return directions[:count]


# An opaque operator: the compiler can trace neither a generator nor a cache.
@torch.library.custom_op("attentune::random_directions", mutates_args=())
def random_directions(count: int, width: int, seed: int, like: Tensor) -> Tensor:
    """W [count width], the same for the same three numbers, in the dtype and on the device of `like`."""
    return _drawn(count, width, seed).to(like.device, like.dtype, copy=True)


@random_directions.register_fake
def _(count: int, width: int, seed: int, like: Tensor) -> Any:
    return like.new_empty(count, width)
