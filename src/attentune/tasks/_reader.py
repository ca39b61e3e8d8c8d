"""An encoder that points at the first and the last token of an answer."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import nn
from torch.nn.functional import embedding

from attentune.kernels.layout import Layout
from attentune.shapes import Bool, Float, Int, Tensor
from attentune.spec.model import ModelSpec
from attentune.tasks._answer_words import FIRST_OF_CONTEXT, KINDS
from attentune.tasks.heads import Headed, HeadOutput

HIDDEN = -1e4  # the logit of what cannot be an answer


@final
class Reader(Headed):
    """Two logits for each token, that it begins and that it ends the answer: output(dropout(trunk(ids))).

    The first token stands for "no answer" (arXiv:1810.04805); of the others only those of the context count. Each mark
    has a vector, which is added to the token's. `threshold` is what the answer's two logits must be above those of no
    answer; it is set after training.
    """

    threshold: Tensor

    def __init__(
        self, spec: ModelSpec, *, dropout: float, hidden_share: float, unknown: int, special: tuple[int, ...]
    ) -> None:
        super().__init__(spec, classes=2, dropout=dropout, hidden_share=hidden_share, unknown=unknown, special=special)
        self.marks = nn.Parameter(
            torch.empty(KINDS, spec.width).normal_(0.0, float(self.trunk.embedding.table.detach().std()))
        )
        self.marks.role = "embedding"  # type: ignore[attr-defined]
        self.register_buffer("threshold", torch.zeros(()))

    def forward(
        self, ids: Int[Tensor, "B T"], layout: Layout | None = None, *, marks: Int[Tensor, "B T"]
    ) -> HeadOutput:
        """Logits [B 2 T], of beginning and of ending."""
        given = self.trunk.hidden_states(self.shown(ids), layout, added=embedding(marks, self.marks))
        logits = self.output(self.thinned(given.x)).transpose(1, 2)
        hidden = marks < FIRST_OF_CONTEXT
        hidden[:, 0] = False
        return HeadOutput(
            logits.masked_fill(hidden[:, None], HIDDEN), given.losses, hidden=given.x, depths=given.depths
        )


class Spans(NamedTuple):
    """The best answer in each row: its tokens `first` to `last`, both included, its logits' lead over no answer, and
    the logarithm of its probability."""

    first: Int[Tensor, " B"]
    last: Int[Tensor, " B"]
    margin: Float[Tensor, " B"]
    log_probability: Float[Tensor, " B"]


def best_spans(logits: Float[Tensor, "B 2 T"], inside: Bool[Tensor, "B T"], *, longest: int) -> Spans:
    """Of all spans of at most `longest` tokens of the context (`inside`) the one with the greatest sum of logits."""
    logits = logits.float()
    begin, end = logits.masked_fill(~inside[:, None], float("-inf")).unbind(1)
    rows, length = begin.shape
    best = begin.new_full((rows,), float("-inf"))
    first = torch.zeros(rows, dtype=torch.long, device=begin.device)
    last = first.clone()
    for more in range(min(longest, length)):
        sums, places = (begin[:, : length - more] + end[:, more:]).max(1)
        better = sums > best
        best = torch.where(better, sums, best)
        first, last = torch.where(better, places, first), torch.where(better, places + more, last)
    return Spans(first, last, best - logits[:, :, 0].sum(1), best - logits.logsumexp(-1).sum(1))
