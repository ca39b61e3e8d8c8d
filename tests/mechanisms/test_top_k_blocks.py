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
