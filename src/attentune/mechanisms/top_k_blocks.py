"""Attention to the best blocks of keys (mixture of block attention, arXiv:2502.13189).

    score(i, b) = q_i . mean of the keys in block b
    a query sees its own block, and the top - 1 best of the blocks that lie wholly before it, of equals the nearer

The choice has no gradient of its own, as in the paper: queries and keys learn through the blocks
that were chosen. A block that holds a key later than the query is never scored.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import PositiveInt

from attentune.shapes import Bool, Float, Tensor
from attentune.spec.mechanism import Params
from attentune.spec.positions import Positions
from attentune.spec.slots import Selector


@final
class TopKBlocks(Selector):
    """Each query attends to `top` blocks of `block` keys, its own block included."""

    kind: Literal["top_k_blocks"] = "top_k_blocks"
    by_query: ClassVar[bool] = True
    block: PositiveInt
    top: PositiveInt

    def select(
        self,
        params: Params,
        q: Float[Tensor, "B H Q D"],
        k: Float[Tensor, "B H K D"],
        query: Positions,
        key: Positions,
        visible: Bool[Tensor, "..."],
    ) -> Bool[Tensor, "B H Q K"]:
        shape = torch.broadcast_shapes(visible.shape, (q.shape[0], q.shape[1], q.shape[2], k.shape[2]))
        visible = visible.expand(shape)
        with torch.no_grad():
            key_block = (key.position // self.block).expand(shape)
            query_block = (query.position // self.block).expand(*shape[:-1], 1)
            blocks = -(-k.shape[2] // self.block)
            if key.valid is not None and not torch.compiler.is_compiling():  # with keys left out, positions go further
                blocks = max(blocks, int(key.position.max()) // self.block + 1)
            member = torch.zeros(*shape[:-1], blocks, device=q.device, dtype=q.dtype)
            s = torch.matmul(q, k.transpose(-1, -2)).masked_fill(~visible, 0.0)
            total = member.scatter_add(-1, key_block, s)
            count = member.scatter_add(-1, key_block, visible.to(q.dtype))
            number = torch.arange(blocks, device=q.device)
            past = (number < query_block) & (count > 0)
            score = (total / count.clamp(min=1)).masked_fill(~past, float("-inf"))
            others = min(self.top - 1, blocks)
            chosen = torch.zeros_like(past)
            if others:
                # Blocks of equal content have equal scores: the nearer one wins, however many keys there are.
                best = score.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :others]
                best = blocks - 1 - best
                chosen = chosen.scatter(-1, best, True) & past
            chosen = chosen | (number == query_block)
            return chosen.gather(-1, key_block)
