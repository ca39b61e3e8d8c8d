from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels import Layout
from attentune.mechanisms import attention
from kernels.attending import attend, operands, sizes, weights


def selected(top: int, keys: list[float], *, block: int = 2) -> list[str]:
    """Which keys each query (all of them 1) attends to."""
    length = len(keys)
    q, k = torch.ones(1, 1, length, 1), torch.tensor(keys).view(1, 1, length, 1)
    p = weights(f"heads=1, mask=causal, selector=top_k_blocks({block}, {top})", q, k, torch.zeros(1, 1, length, 1))
    return ["".join("x" if weight > 0 else "." for weight in row) for row in p[0, 0].tolist()]


def test_own_block_and_the_best_of_the_past_by_hand() -> None:
    # block means: 3, 1, 2, and the last block is always the query's own
    keys = [3.0, 3.0, 0.0, 2.0, 2.0, 2.0, 9.0]
    assert selected(1, keys) == ["x......", "xx.....", "..x....", "..xx...", "....x..", "....xx.", "......x"]
    assert selected(2, keys) == ["x......", "xx.....", "xxx....", "xxxx...", "xx..x..", "xx..xx.", "xx....x"]
    assert selected(3, keys)[4:] == ["xxxxx..", "xxxxxx.", "xx..xxx"]


@pytest.mark.parametrize("top", [4, 50])
def test_all_blocks_chosen_is_full_attention(top: int) -> None:
    spec = attention(f"heads=2, mask=causal, selector=top_k_blocks(2, {top})")
    q, k, v = operands(sizes(spec), 7)
    assert torch.allclose(attend(spec, q, k, v).output, attend("heads=2, mask=causal", q, k, v).output, atol=1e-14)


def test_padding_does_not_count_in_a_blocks_mean() -> None:
    real = [3.0, 3.0, 0.0, 2.0, 2.0]
    padded = torch.tensor([50.0, -80.0, *real])
    valid = torch.tensor([[False, False, True, True, True, True, True]])
    q = torch.ones(1, 1, 7, 1)
    text = "heads=1, mask=causal, selector=top_k_blocks(2, 2)"
    p = weights(text, q, padded.view(1, 1, 7, 1), torch.zeros(1, 1, 7, 1), layout=Layout.padded(valid))
    alone = weights(text, q[:, :, 2:], padded[2:].view(1, 1, 5, 1), torch.zeros(1, 1, 5, 1))
    assert torch.allclose(p[:, :, 2:, 2:], alone)
    assert (p[:, :, :, :2] == 0).all()


def test_a_mask_that_shows_later_keys_is_refused() -> None:
    with pytest.raises(SpecError, match="selector=top_k_blocks needs a mask that never shows later keys"):
        attention("heads=2, selector=top_k_blocks(2, 2)")


@pytest.mark.parametrize("length", [7, 40])
def test_of_equal_blocks_the_nearer_one_is_seen(length: int) -> None:
    rows = selected(2, [1.0] * length)
    assert rows[6] == "....xxx" + "." * (length - 7)
    assert rows[-1][:-4] == "." * (length - 4) or length == 7


@pytest.mark.parametrize("top", [1, 2, 3])
def test_the_gradient_is_that_of_the_chosen_blocks(top: int) -> None:
    """As in the paper: the choice is constant almost everywhere, so finite differences away from ties agree."""
    spec = attention(f"heads=2, mask=causal, selector=top_k_blocks(2, {top})")
    q, k, v = operands(sizes(spec), 10, batch=1)
    assert torch.autograd.gradcheck(lambda *qkv: attend(spec, *qkv).output, (q, k, v), eps=1e-7, atol=1e-6)
    # a key that only helped to score its block receives nothing from queries that did not choose the block
    seen = weights(spec, q, k, v)[0, :, -1] > 0
    grads = torch.autograd.grad(attend(spec, q, k, v).output[:, :, -1].square().sum(), (k, v))
    for grad in grads:
        assert ((grad[0] != 0).any(-1) == seen).all()
    assert seen.all() == (top >= 5)


def test_equals_the_papers_rule_written_out() -> None:
    """Future blocks score -inf, the own block +inf, then the top k of all blocks (arXiv:2502.13189, section 2.2)."""
    block, top, length = 3, 3, 14
    spec = attention(f"heads=2, mask=causal, selector=top_k_blocks({block}, {top})")
    q, k, v = operands(sizes(spec), length)
    gate = torch.stack([q @ part.mean(2, keepdim=True).mT for part in k.split(block, 2)], -1).squeeze(-2)  # [B H Q N]
    own = torch.arange(length) // block
    number = torch.arange(gate.shape[-1])
    gate = gate.masked_fill(number > own[:, None], float("-inf")).masked_fill(number == own[:, None], float("inf"))
    chosen = torch.zeros_like(gate, dtype=torch.bool).scatter(-1, gate.topk(top, -1).indices, True)
    seen = chosen.gather(-1, own.expand(*gate.shape[:3], length)) & torch.ones(length, length, dtype=torch.bool).tril()
    p = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, float("-inf")).softmax(-1)
    assert torch.allclose(attend(spec, q, k, v).output, p @ v, atol=1e-12)
    assert not seen[..., -1, :].all()
