"""Beam search over a batch of sources, on the key/value cache (arXiv:1609.08144)."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal, final

import torch
from pydantic import Field, model_validator

from attentune.errors import SpecError
from attentune.generation.finished import Finished, History, Hypothesis
from attentune.generation.frontier import Frontier
from attentune.generation.likeliest import likeliest
from attentune.models.decoder import Decoder
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.value import Frozen

NEVER = float("-inf")


@final
class Beam(Frozen):
    """How many hypotheses of each source are kept open, how finished ones are scored, and when they end.

    score(Y) = log p(Y) / penalty(|Y|) + coverage(Y), where |Y| counts the token that ends the text.

    - `normalization=gnmt`:    penalty = ((5 + |Y|) / 6)^length_penalty      (arXiv:1609.08144, equation 14)
    - `normalization=length`:  penalty = |Y|^length_penalty
    - coverage = coverage_penalty x sum over source tokens i of log(min(sum over j of p_ij, 1)), with p_ij the weight of
      source token i in the last layer's cross-attention when target token j is chosen, the mean over its heads

    A source is done once none of its open hypotheses can still come among the `alternatives` best finished ones,
    however long it grew; its text is cut at `max_length` tokens, or at `max_ratio` times the tokens of its source. A
    width of 1 is greedy: it ends where the likeliest token does.
    """

    width: Annotated[int, Field(ge=1)] = 5
    normalization: Literal["gnmt", "length"] = "gnmt"
    length_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.6
    coverage_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_length: Annotated[int, Field(ge=1)] = 256
    max_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    alternatives: Annotated[int, Field(ge=1)] = 1  # hypotheses of each source to hand back, the best first

    @model_validator(mode="after")
    def _alternatives_fit(self) -> Beam:
        if self.alternatives > self.width:
            raise ValueError(f"alternatives={self.alternatives} need a width as large, got width={self.width}")
        return self

    def penalty(self, length: Int[Tensor, "*sizes"], dtype: torch.dtype) -> Float[Tensor, "*sizes"]:
        """What the log-probability of a text of so many tokens is divided by."""
        base = length.to(dtype)
        if self.normalization == "gnmt":
            base = (5 + base) / 6
        return base**self.length_penalty

    def coverage(self, covered: Float[Tensor, "B W K"], valid: Bool[Tensor, "B 1 K"] | None) -> Tensor:
        """The coverage penalty from the weights that each source token has received; 0 at best."""
        tiny = torch.finfo(covered.dtype).tiny  # a token that no weight fell on is worth much, but not infinity
        logs = covered.clamp(min=tiny, max=1.0).log()
        if valid is not None:
            logs = logs.masked_fill(~valid, 0.0)
        return self.coverage_penalty * logs.sum(-1)

    def limit(self, source: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
        """The most tokens of each text, from those of its source."""
        return limits(source, self.max_length, self.max_ratio)


def limits(source: Int[Tensor, "B"], most: int, ratio: float | None) -> Int[Tensor, "B"]:
    """`most` tokens, or `ratio` times those of the source, rounded up."""
    if ratio is None:
        return torch.full_like(source, most)
    return torch.tensor([min(most, ceil(ratio * tokens)) for tokens in source.tolist()], device=source.device)


@torch.inference_mode()
def search(
    decoder: Decoder,
    frontier: Frontier,
    beam: Beam,
    *,
    limit: Int[Tensor, "B"],
    end: int | None,
    valid: Bool[Tensor, "B K"] | None = None,
    weigh: bool = False,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each source, in descending order of their scores.

    `limit` holds the most tokens of each; `end` is the token that ends a text. `valid` tells padding of the sources,
    for the coverage penalty; `weigh` keeps the weights of cross-attention.

    Raises:
        SpecError: logits that are not numbers.
    """
    seen = frontier.start()
    exact = torch.promote_types(seen.hidden.dtype, torch.float32)
    rows, width, device = len(limit), beam.width, limit.device
    finished = Finished(rows, beam.alternatives, device, exact)
    history = History()
    source = torch.arange(rows, device=device)  # which source each open row is of
    score = torch.zeros(rows, 1, dtype=exact, device=device)  # log p of the open hypotheses
    covered: Tensor | None = None
    longest = beam.penalty(limit, exact)
    for length in range(1, int(limit.max()) + 1):
        flat = seen.hidden.flatten(0, 1)
        logs, choices = likeliest(decoder.logits(flat[:, None])[:, 0], width + 1)
        several = logs.shape[1]
        # Of 2 W candidates at most W end, for each parent ends once: W at least go on.
        every = (score[..., None] + logs.view(*score.shape, several)).flatten(1)
        top, place = every.topk(min(2 * width, every.shape[1]), -1)
        parent, token = place // several, choices.view(len(score), -1).gather(1, place)
        if beam.coverage_penalty:
            assert seen.weights is not None
            covered = seen.weights if covered is None else covered + seen.weights

        ends = torch.zeros_like(token, dtype=torch.bool) if end is None else token == end
        over = limit == length
        closing = (ends | over[:, None])[:, :width] & (top[:, :width] > NEVER)
        if bool(closing.any()):
            worth = top[:, :width] / beam.penalty(torch.tensor(length, device=device), exact)
            if covered is not None:
                mine = covered.gather(1, parent[:, :width, None].expand(-1, -1, covered.shape[-1]))
                worth = worth + beam.coverage(mine, None if valid is None else valid[:, None])
            worth = worth.masked_fill(~closing, NEVER)
            finished.add(source, worth, top[:, :width], parent[:, :width], token[:, :width], length, ends[:, :width])

        score, order = top.masked_fill(ends, NEVER).topk(min(width, top.shape[1]), -1)
        parent, token = parent.gather(1, order), token.gather(1, order)
        if score.shape[1] < width:  # fewer than W beginnings exist: dead ones fill the beam up
            missing = width - score.shape[1]
            score = torch.cat([score, score.new_full((len(score), missing), NEVER)], 1)
            parent, token = (torch.cat([x, x[:, :1].expand(-1, missing)], 1) for x in (parent, token))
        history.add(source, rows, token, parent, seen.weights if weigh else None)

        done = over | (score[:, 0] / longest <= finished.worst(source)) | (score[:, 0] == NEVER)
        if width == 1:
            done |= finished.worst(source) > NEVER
        if bool(done.all()):
            break
        if covered is not None:
            covered = covered.gather(1, parent[..., None].expand(-1, -1, covered.shape[-1]))
        open_rows = (~done).nonzero()[:, 0]
        if len(open_rows) < len(done):
            frontier.keep(open_rows)
            kept = (source, score, parent, token, limit, longest)
            source, score, parent, token, limit, longest = (x.index_select(0, open_rows) for x in kept)
            covered = None if covered is None else covered.index_select(0, open_rows)
            valid = None if valid is None else valid.index_select(0, open_rows)
        seen = frontier.step(token, parent)
    return history.trace(finished)


def check_beam(beam: Beam, *, crosses: bool) -> None:
    """Raise SpecError where nothing gives the weights that the coverage penalty needs."""
    if beam.coverage_penalty and not crosses:
        raise SpecError(
            f"coverage_penalty={beam.coverage_penalty:g} needs cross-attention in the model, which has none: use 0"
        )
