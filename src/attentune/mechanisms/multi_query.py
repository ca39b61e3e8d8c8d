"""Multi-query attention (arXiv:1911.02150).

    head_h = Attention(x W_q^h, x W_k, x W_v)    one key/value head for all query heads

The cache is as small as that of one head.
"""

from __future__ import annotations

from typing import Literal, final

from attentune.mechanisms._projected import ProjectedHeads


@final
class MultiQuery(ProjectedHeads):
    """All query heads share one key/value head."""

    kind: Literal["multi_query"] = "multi_query"

    @property
    def key_value_heads(self) -> int:
        return 1
