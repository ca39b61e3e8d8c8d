from __future__ import annotations

import torch

from attentune.mechanisms import attention
from kernels.attending import attend, operands, sizes, weights

TEXT = "heads=2, mask=causal, head_mix=talking_heads"


def mixed(pre: torch.Tensor, post: torch.Tensor, *qkv: torch.Tensor) -> torch.Tensor:
    params = {"head_mix": [{"pre": pre.double(), "post": post.double()}], "heads": [{}]}
    return attend(TEXT, *qkv, params=params).output


def test_begins_as_plain_attention() -> None:
    qkv = operands(sizes(attention(TEXT)), 5)
    assert torch.allclose(attend(TEXT, *qkv).output, attend("heads=2, mask=causal", *qkv).output, atol=1e-14)


def test_the_mixtures_by_hand() -> None:
    q, k, v = operands(sizes(attention(TEXT)), 3)
    eye, swap = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    p = weights("heads=2, mask=causal", q, k, v)
    # exchanging the scores, or the weights, of two heads: each head's values meet the other head's weights
    assert torch.allclose(mixed(swap, eye, q, k, v), p.flip(1) @ v, atol=1e-14)
    assert torch.allclose(mixed(eye, swap, q, k, v), p.flip(1) @ v, atol=1e-14)
    assert torch.allclose(mixed(swap, swap, q, k, v), p @ v, atol=1e-14)
    first_to_second = torch.tensor([[1.0, 3.0], [0.0, 0.0]])  # new head 1 is 3 x old head 0
    mixture = torch.stack([p[:, 0], 3 * p[:, 0]], 1)
    assert torch.allclose(mixed(eye, first_to_second, q, k, v), mixture @ v, atol=1e-14)


def test_the_future_stays_hidden_in_every_mixture() -> None:
    q, k, v = operands(sizes(attention(TEXT)), 4)
    pre, post = torch.randn(2, 2), torch.randn(2, 2)
    changed = v.detach().clone()
    changed[:, :, 3] += 100.0
    before, after = mixed(pre, post, q, k, v), mixed(pre, post, q, k, changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.allclose(before[:, :, 3], after[:, :, 3])
