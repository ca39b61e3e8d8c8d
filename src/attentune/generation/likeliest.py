"""The likeliest next tokens of many rows, without a matrix of all log-probabilities."""

from __future__ import annotations

import torch

from attentune.errors import SpecError
from attentune.shapes import Float, Int, Tensor

BLOCK = 64  # tokens of which the largest logit is found first
CHUNK = 32  # rows whose exponentials stay in a processor's cache


def likeliest(logits: Float[Tensor, "N V"], count: int) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Log-probabilities, in descending order, and tokens of the `count` likeliest (all, where there are fewer).

    log p_i = z_i - log sum over j of exp z_j, in float32 (float64 for float64 logits). Raises SpecError where the
    logits of a row are not numbers, or none is finite.
    """
    values, tokens = _largest(logits, min(count, logits.shape[1]))
    exact = torch.promote_types(logits.dtype, torch.float32)
    values = values.to(exact)
    total = log_sum(logits, values[:, 0])
    check_numbers(total)
    return values - total[:, None], tokens


def check_numbers(total: Float[Tensor, "N"]) -> None:
    """Raise where the log of the sum of a row's exponentials is not finite: a logit was NaN or infinite."""
    if not bool(total.isfinite().all()):
        raise SpecError("the model's logits are not numbers (NaN): its weights are broken or its training diverged")


def log_sum(logits: Float[Tensor, "N V"], largest: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """log sum over j of exp z_j, with the largest z of each row taken out first."""
    exact = largest.dtype
    if logits.device.type != "cpu":
        return logits.to(exact).logsumexp(-1)
    sums = torch.empty_like(largest)
    buffer = torch.empty(min(CHUNK, len(logits)), logits.shape[1], dtype=exact)
    for begin in range(0, len(logits), CHUNK):
        part = slice(begin, begin + CHUNK)
        held = buffer[: len(largest[part])]
        torch.sub(logits[part], largest[part, None], out=held)
        torch.sum(held.exp_(), -1, out=sums[part])
    return sums.log_().add_(largest)


def _largest(logits: Float[Tensor, "N V"], count: int) -> tuple[Tensor, Tensor]:
    """`topk`. The k largest lie in the k blocks with the largest maxima, or in what is left behind the last block."""
    rows, vocabulary = logits.shape
    blocks = vocabulary // BLOCK
    if blocks < 4 * count:
        best = logits.topk(count, -1)
        return best.values, best.indices
    whole = logits[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    chosen = whole.amax(2).topk(count, -1).indices
    found = whole.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1)
    offset = torch.arange(BLOCK, device=logits.device)
    places = (chosen[..., None] * BLOCK + offset).flatten(1)
    if blocks * BLOCK < vocabulary:
        found = torch.cat([found, logits[:, blocks * BLOCK :]], 1)
        rest = torch.arange(blocks * BLOCK, vocabulary, device=logits.device)
        places = torch.cat([places, rest.expand(rows, -1)], 1)
    best = found.topk(count, -1)
    return best.values, places.gather(1, best.indices)
