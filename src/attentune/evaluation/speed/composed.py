"""Local attention composed of `scaled_dot_product_attention`, and packed rows document by document.

Queries go in chunks, each over the slice of keys that it sees: [before | chunk | after]. All chunks that are not at an
edge see alike, so that one small mask serves them and one call computes them, on overlapping views of the keys that
are never copied. What is at an edge is a call of its own.
"""

from __future__ import annotations

from typing import final

import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.evaluation.speed.contestant import Prepared
from attentune.evaluation.speed.dense import NO_CAP, NO_MASK_GRADIENT, NO_STATISTICS, additive_between
from attentune.evaluation.speed.grid import Case
from attentune.evaluation.speed.problem import Problem, document_lengths
from attentune.shapes import Float, Int, Tensor
from attentune.spec.slots import Bias

CHUNK = 128  # queries: few keys that nobody sees, and calls that are large enough
SINKS = 4


@final
class Composed:
    """Chunks of queries over slices of keys, or one call for each document."""

    name, ours, compiles = "chunked", False, False

    def refusal(self, case: Case) -> str | None:
        if case.statistics:
            return NO_STATISTICS
        if case.cell.scores == "soft_cap":
            return NO_CAP
        if case.cell.mask not in ("window", "sinks", "symmetric", "packed"):
            return "is for windows and documents"
        if case.cell.scores != "none" and case.cell.mask in ("sinks", "packed"):
            return "has one mask for all chunks, which see biases to the sinks or in documents differently"
        if case.cell.scores == "t5" and case.backward and case.setting.device == "cpu":
            return NO_MASK_GRADIENT
        return None

    def needs(self, case: Case) -> float:
        del case
        return 0.0

    def prepare(self, problem: Problem) -> Prepared:
        if problem.case.decodes:
            return _newest(problem)
        return _each_document(problem) if problem.case.cell.mask == "packed" else _chunks(problem)


def _each_document(problem: Problem) -> Prepared:
    lengths = document_lengths(problem.case.cell.length)

    def forward() -> dict[str, Tensor]:
        parts = zip(*(tensor.split(lengths, 2) for tensor in (problem.q, problem.k, problem.v)), strict=True)
        found = [scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in parts]
        return {"output": torch.cat(found, 2)}

    return Prepared(forward)


def _newest(problem: Problem) -> Prepared:
    """One query over the keys that its window still holds."""
    case, length = problem.case, problem.case.cell.length
    if case.cell.mask == "packed":
        first = length - document_lengths(length)[-1]
    else:
        first = max(length - case.setting.window, 0)
    sinks = min(SINKS, first) if case.cell.mask == "sinks" else 0
    mask = None
    if isinstance(case.spec.position, Bias):
        mask = _mask(problem, torch.arange(1), torch.arange(first, length))

    def newest(tensor: Tensor) -> Tensor:
        kept = tensor[:, :, first:]
        return torch.cat([tensor[:, :, :sinks], kept], 2) if sinks else kept

    def forward() -> dict[str, Tensor]:
        k, v = newest(problem.k), newest(problem.v)
        return {"output": scaled_dot_product_attention(problem.q, k, v, attn_mask=mask)}

    return Prepared(forward, lambda: mask)


def _chunks(problem: Problem) -> Prepared:
    case, length = problem.case, problem.case.cell.length
    sinks = SINKS if case.cell.mask == "sinks" else 0
    window = case.symmetric_window if case.cell.mask == "symmetric" else case.setting.window
    after = (window - 1) // 2 if case.cell.mask == "symmetric" else 0
    before = window - 1 - after
    begin = before + sinks  # from here on queries have all their keys, none of which is a sink
    count = max((length - after - begin) // CHUNK, 0)
    if count == 0:
        begin = length
    end = begin + count * CHUNK  # from here on keys are missing, or queries to fill a chunk
    span = before + CHUNK + after

    def mask(first: int, last: int, key_first: int, key_last: int) -> Float[Tensor, "1 N Q K"]:
        keys = torch.arange(key_first, key_last)
        if sinks and key_first:
            keys = torch.cat([torch.arange(sinks), keys])
        return _mask(problem, torch.arange(first, last), keys)

    head_keys = min(begin + after, length)
    head = mask(0, begin, 0, head_keys)
    tail = mask(end, length, end - before, length) if end < length else None
    inner = mask(begin, begin + CHUNK, begin - before, begin + CHUNK + after) if count else None
    if inner is not None and inner.shape[1] > 1:  # heads stand in the batch, and chunks where heads stood
        inner = inner.transpose(0, 1).repeat(case.setting.batch, 1, 1, 1)

    def with_sinks(keys: Tensor, of: Tensor) -> Tensor:
        """Keys [B H K D], or of all chunks [BH N K D], behind the sinks."""
        if not sinks:
            return keys
        first = of[:, :, :sinks]
        if keys.shape[:2] != of.shape[:2]:
            first = first.flatten(0, 1)[:, None].expand(-1, keys.shape[1], -1, -1)
        return torch.cat([first, keys], 2)

    def slices(tensor: Tensor) -> Tensor:
        views = tensor[:, :, begin - before :].unfold(2, span, CHUNK)[:, :, :count]  # [B H N D span]
        return with_sinks(views.flatten(0, 1).transpose(-1, -2), tensor)

    def forward() -> dict[str, Tensor]:
        q, k, v = problem.q, problem.k, problem.v
        parts = [
            scaled_dot_product_attention(q[:, :, :begin], k[:, :, :head_keys], v[:, :, :head_keys], attn_mask=head)
        ]
        if inner is not None:
            queries = q[:, :, begin:end].reshape(-1, count, CHUNK, q.shape[-1])
            found = scaled_dot_product_attention(queries, slices(k), slices(v), attn_mask=inner)
            parts.append(found.reshape(*q.shape[:2], count * CHUNK, q.shape[-1]))
        if tail is not None:
            last_k, last_v = (with_sinks(tensor[:, :, end - before :], tensor) for tensor in (k, v))
            parts.append(scaled_dot_product_attention(q[:, :, end:], last_k, last_v, attn_mask=tail))
        return {"output": torch.cat(parts, 2)}

    return Prepared(forward, lambda: (head, inner, tail))


def _mask(problem: Problem, queries: Int[Tensor, "Q"], keys: Int[Tensor, "K"]) -> Float[Tensor, "1 N Q K"]:
    query = problem.layout.query.map(lambda tensor: tensor[0, queries, None])
    return additive_between(problem, query, problem.layout.key.map(lambda tensor: tensor[0, keys]))[None]
