"""Recurrences whose state is a matrix for each head, in three forms that compute the same.

    S_t = a_t S_{t-1} + k_t u_t^T,    o_t = S_t^T q_t,    S [D V],    a_t = exp(log_decay_t)

u_t is v_t, or with `beta`, for the delta rule, u_t = beta_t (v_t - (a_t S_{t-1})^T k_t).

Inside a chunk that begins with the state S, and with G_i the decay from its begin to token i,

    O = diag(G) Q S + (Q K^T * P) U,    P_ij = G_i / G_j for j <= i,    S' = G_C S + (diag(G_C / G) K)^T U

and for the delta rule (I + A) U = diag(beta) (V - diag(G) K S) with A_ij = beta_i P_ij k_i . k_j for j < i: the
UT transform (arXiv:2406.06484, arXiv:2412.06464). Ratios of decays are differences of logarithms, so that none
overflows; what stands before a document's start is masked, not decayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from attentune.shapes import Bool, Float, Tensor

CHUNK = 64  # tokens


@dataclass(frozen=True)
class Tokens:
    """What a recurrence reads of T tokens. Padding has keys of 0 and a `log_decay` of 0."""

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B H T D"]
    v: Float[Tensor, "B H T V"]
    log_decay: Float[Tensor, "#B H T"] | None = None  # None: nothing is forgotten
    beta: Float[Tensor, "B H T"] | None = None  # None: not the delta rule
    starts: Bool[Tensor, "B T"] | None = None


def accumulating(dtype: torch.dtype) -> torch.dtype:
    """The type to add up in: float32, or float64 for float64."""
    return dtype if dtype.itemsize >= 4 else torch.float32


def recurrence(
    tokens: Tokens, state: Float[Tensor, "B H D V"], form: str
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H D V"]]:
    """Every token's o and the state after the last, computed in one of the three forms."""
    if form == "recurrent":
        return _recurrent(tokens, state)
    return _chunked(tokens, state, CHUNK if form == "chunked" else tokens.q.shape[2])


def _recurrent(tokens: Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    decay = None if tokens.log_decay is None else tokens.log_decay.exp()[..., None, None]
    for t in range(tokens.q.shape[2]):
        q, k, v = (x[:, :, t, :, None] for x in (tokens.q, tokens.k, tokens.v))
        if tokens.starts is not None:
            state = state.masked_fill(tokens.starts[:, t, None, None, None], 0.0)
        if decay is not None:
            state = decay[:, :, t] * state
        if tokens.beta is not None:
            v = tokens.beta[:, :, t, None, None] * (v - state.transpose(-1, -2) @ k)
        state = state + k * v.transpose(-1, -2)
        outputs.append((q.transpose(-1, -2) @ state)[:, :, 0])
    return torch.stack(outputs, 2), state


def _chunked(tokens: Tokens, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    length = tokens.q.shape[2]
    chunk = min(chunk, length)
    q, k, v = (_split(x, chunk, 2) for x in (tokens.q, tokens.k, tokens.v))  # [B H N C D]
    ratio, since_begin, until_end, whole = _decays(tokens, chunk)
    scores = (q @ k.transpose(-1, -2)) * ratio  # [B H N C C]
    queries, keys = (q, k) if since_begin is None else (q * since_begin[..., None], k)
    if until_end is not None:
        keys = k * until_end[..., None]
    keys = keys.transpose(-1, -2)
    count = q.shape[2]
    before, added = [], []
    if tokens.beta is None:
        updates = keys @ v
        for n in range(count):
            before.append(state)
            state = (state if whole is None else whole[:, :, n, None, None] * state) + updates[:, :, n]
        u = v
    else:
        beta = _split(tokens.beta, chunk, 2)[..., None]
        marked = beta * k
        a = (marked @ k.transpose(-1, -2)) * ratio  # only below the diagonal is read, the diagonal is that of I
        marked = marked if since_begin is None else marked * since_begin[..., None]
        written = beta * v
        for n in range(count):
            before.append(state)
            right = written[:, :, n] - marked[:, :, n] @ state
            added.append(torch.linalg.solve_triangular(a[:, :, n], right, upper=False, unitriangular=True))
            state = (state if whole is None else whole[:, :, n, None, None] * state) + keys[:, :, n] @ added[-1]
        u = torch.stack(added, 2)
    o = scores @ u + queries @ torch.stack(before, 2)
    return o.flatten(2, 3)[:, :, :length], state


def _decays(tokens: Tokens, chunk: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """From j to i [.. N C C] and 0 for j > i; from a chunk's begin to i, from j to its end [.. N C]; over it [.. N].

    All but the first are None where nothing decays and no document starts.
    """
    past = torch.ones(chunk, chunk, dtype=torch.bool, device=tokens.q.device).tril()
    dtype = tokens.q.dtype
    if tokens.log_decay is None and tokens.starts is None:
        return past.to(dtype), None, None, None
    same = first = last = None
    if tokens.starts is not None:
        document = _split(tokens.starts, chunk, 1).cumsum(-1)[:, None]  # [B 1 N C]
        same = document[..., :, None] == document[..., None, :]
        first, last = document == 0, document == document[..., -1:]
        past = past & same
    if tokens.log_decay is None:
        assert first is not None and last is not None
        return past.to(dtype), first.to(dtype), last.to(dtype), first[..., -1].to(dtype)
    # Sums over a chunk may be large where their differences are small: float32 would lose these.
    exact = dtype if tokens.q.device.type == "mps" else torch.float64
    total = _split(tokens.log_decay, chunk, 2).to(exact).cumsum(-1)  # [.. H N C]
    between = (total[..., :, None] - total[..., None, :]).to(dtype)
    since_begin, until_end = total.to(dtype), (total[..., -1:] - total).to(dtype)
    if first is not None and last is not None:
        since_begin, until_end = since_begin.masked_fill(~first, -torch.inf), until_end.masked_fill(~last, -torch.inf)
    since_begin = since_begin.exp()
    return between.masked_fill(~past, -torch.inf).exp(), since_begin, until_end.exp(), since_begin[..., -1]


def _split(x: Tensor, chunk: int, axis: int) -> Tensor:
    """The axis of tokens as chunks, the last filled up with zeros."""
    if rest := -x.shape[axis] % chunk:
        x = pad(x, [0, 0] * (x.ndim - axis - 1) + [0, rest])
    split: Tensor = x.unflatten(axis, (-1, chunk))
    return split
