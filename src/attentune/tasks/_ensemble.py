"""Several models of the same shape that answer together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import Annotated, final

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import log_softmax, logsigmoid

from attentune.kernels.layout import Layout
from attentune.models.transformer import Transformer
from attentune.shapes import Float, Int, Tensor
from attentune.tasks.heads import Headed, HeadOutput

Members = Annotated[int, Field(ge=1, le=64)]


@final
class Ensemble(nn.Module):
    """M models that begin with different weights and learn side by side (deep ensembles, arXiv:1612.01474).

    Each is trained by its own loss, with dropout of its own; what they answer is the mean of their probabilities, which
    is right more often than one of them, and less sure of itself where they differ. It costs M times the computation.
    """

    has_memory = False

    def __init__(self, members: Sequence[Headed], *, several: bool = False) -> None:
        """`several`: each class holds or not, on its own."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.several = several
        self.spec, self.halting = members[0].spec, members[0].halting

    @property
    def trunk(self) -> Transformer:
        """The layers of the first member, to look at."""
        return self._first.trunk

    @property
    def _first(self) -> Headed:
        first = self.members[0]
        assert isinstance(first, Headed)
        return first

    def bind(self, **choice: object) -> None:
        """Choose the kernels of every attention, as `Transformer.bind`."""
        for member in self.members:
            member.bind(**choice)  # type: ignore[operator]

    def forward(self, ids: Int[Tensor, "B T"], layout: Layout | None = None) -> HeadOutput:
        """Logits [B P C] of the mean of the probabilities; in training those of each member, [M B P C]."""
        found: list[HeadOutput] = [member(ids, layout) for member in self.members]
        logits = torch.stack([one.logits for one in found])
        losses = {name: torch.stack([one.losses[name] for one in found]).mean() for name in found[0].losses}
        together = logits if self.training else mean_answer(logits, several=self.several)
        return HeadOutput(together, losses, hidden=found[0].hidden, depths=found[0].depths)


def alone_or_together(one: Callable[[], Headed], members: int, *, several: bool = False) -> Headed | Ensemble:
    """One model, or with more `members` an ensemble of as many."""
    return one() if members == 1 else Ensemble([one() for _ in range(members)], several=several)


def mean_answer(logits: Float[Tensor, "M *places C"], *, several: bool) -> Float[Tensor, "*places C"]:
    """Logits of the mean of the M probabilities.

    Of classes one of which holds these are log(1/M sum_m p_m), whose softmax is that mean; of `several` that may hold
    at once log(p / (1 - p)) with p the mean of the sigmoids.
    """
    exact = logits.float() if logits.dtype.itemsize < 4 else logits
    if several:
        answer = torch.logsumexp(logsigmoid(exact), 0) - torch.logsumexp(logsigmoid(-exact), 0)
    else:
        answer = torch.logsumexp(log_softmax(exact, -1), 0) - log(len(logits))
    return answer.to(logits.dtype)
