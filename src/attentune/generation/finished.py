"""Hypotheses that have ended, and the way back to their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from attentune.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A text as token numbers, without the token that ends it.

    `log_probability` is that of the tokens and of the end in nats; `length` counts both; `score` is what texts are
    ranked by; `ended` is False where the text was cut. `weights` [length, source tokens] are those of the last layer's
    cross-attention, the mean over its heads, as each token was chosen; None where they were not asked for.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    length: int
    ended: bool
    weights: Float[Tensor, "L K"] | None = None


@final
class Finished:
    """The best finished hypotheses of each source, the best first."""

    def __init__(self, rows: int, count: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (rows, count)
        self.score = torch.full(shape, float("-inf"), device=device, dtype=dtype)
        self.log = torch.zeros(shape, device=device, dtype=dtype)
        self.numbers = torch.zeros((*shape, 4), device=device, dtype=torch.long)  # parent, token, length, ended

    def worst(self, rows: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        """The last score of each full set; minus infinity where it is not full."""
        return self.score[:, -1].index_select(0, rows)

    def add(
        self,
        rows: Int[Tensor, "N"],
        score: Float[Tensor, "N W"],
        log: Float[Tensor, "N W"],
        parent: Int[Tensor, "N W"],
        token: Int[Tensor, "N W"],
        length: int,
        ended: Bool[Tensor, "N W"],
    ) -> None:
        """Candidates of some sources, whose scores are minus infinity where they have not ended."""
        new = torch.stack([parent, token, torch.full_like(token, length), ended.long()], -1)
        scores = torch.cat([self.score[rows], score], 1)
        logs, numbers = torch.cat([self.log[rows], log], 1), torch.cat([self.numbers[rows], new], 1)
        self.score[rows], order = scores.topk(self.score.shape[1], -1)
        self.log[rows] = logs.gather(1, order)
        self.numbers[rows] = numbers.gather(1, order[..., None].expand(-1, -1, 4))


@final
class History:
    """Token and parent of each hypothesis at every step, and what cross-attention looked at."""

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []
        self.parents: list[Tensor] = []
        self.weights: list[Tensor] = []

    def add(
        self,
        rows: Int[Tensor, "N"],
        count: int,
        token: Int[Tensor, "N W"],
        parent: Int[Tensor, "N W"],
        weights: Float[Tensor, "N V K"] | None,
    ) -> None:
        """`rows` of `count` sources chose `token` after `parent`; `weights` are those of the V parents."""
        for held, new in ((self.tokens, token), (self.parents, parent), (self.weights, weights)):
            if new is not None:
                held.append(new.new_zeros(count, *new.shape[1:]).index_copy_(0, rows, new))

    def trace(self, finished: Finished) -> list[list[Hypothesis]]:
        """The finished hypotheses of each source with their tokens, from the last one back to the first."""
        tokens, parents = ([x.cpu().numpy() for x in held] for held in (self.tokens, self.parents))
        weights = [x.float().cpu() for x in self.weights]
        scores, logs, numbers = finished.score.tolist(), finished.log.tolist(), finished.numbers.tolist()
        made = []
        for row, entries in enumerate(numbers):
            found = []
            for place, (parent, token, length, ended) in enumerate(entries):
                if scores[row][place] == float("-inf"):
                    continue
                text, looked = [] if ended else [token], []
                for step in range(length - 1, -1, -1):
                    if weights:
                        looked.append(weights[step][row, parent])
                    if step:
                        text.append(int(tokens[step - 1][row, parent]))
                        parent = int(parents[step - 1][row, parent])
                seen = torch.stack(looked[::-1]) if looked else None
                found.append(
                    Hypothesis(tuple(text[::-1]), logs[row][place], scores[row][place], length, bool(ended), seen)
                )
            made.append(found)
        return made
