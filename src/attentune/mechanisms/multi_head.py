"""Multi-head attention (arXiv:1706.03762).

    head_h = Attention(x W_q^h, x W_k^h, x W_v^h),    y = concat(head_1 ... head_H) W_o

Heads are as wide as the model's width divided by their number, unless `head_width` says how wide.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.mechanisms._projected import ProjectedHeads


@final
class MultiHead(ProjectedHeads):
    """Every query head has keys and values of its own; in text simply `heads=8`."""

    kind: Literal["multi_head"] = "multi_head"

    @property
    def key_value_heads(self) -> int:
        return self.heads
