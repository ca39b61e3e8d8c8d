from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.t5 import T5
from kernels.attending import attend, operands, sizes


def test_buckets_by_hand() -> None:
    distance = torch.tensor([-5, 0, 1, 15, 16, 18, 19, 127, 128, 10_000])
    # below 16 each its own; then 16 + floor(16 log(d / 16) / log 8): 16, 16.9, 17.3 ...
    assert T5().bucket(distance).tolist() == [0, 0, 1, 15, 16, 16, 17, 31, 31, 31]
    both = T5(bidirectional=True).bucket(torch.tensor([0, 1, 7, 8, -1, -7, -1000]))
    assert both.tolist() == [0, 1, 7, 8, 17, 23, 31]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 20)])
def test_buckets_equal_transformers(bidirectional: bool, buckets: int, longest: int) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = torch.arange(-300, 301)
    ours = T5(buckets=buckets, max_distance=longest, bidirectional=bidirectional).bucket(distance)
    theirs = t5.T5Attention._relative_position_bucket(-distance, bidirectional, buckets, longest)
    assert torch.equal(ours, theirs)


def test_the_tables_numbers_are_added_to_the_scores_of_their_head() -> None:
    spec = attention("heads=2, position=t5(buckets=4, max_distance=8), mask=causal")
    q, k, v = operands(sizes(spec), 4)
    table = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    output = attend(spec, q, k, v, params={"position": [{"table": table}], "heads": [{}], "normalizer": [{}]}).output
    distance = torch.arange(4)[:, None] - torch.arange(4)
    bucket = torch.tensor([0, 1, 2, 2])[distance.clamp(min=0)]  # 3 = 2 + floor(2 log 1.5 / log 4) is still in bucket 2
    s = q @ k.mT / 2 + table[bucket].permute(2, 0, 1)
    p = s.masked_fill(distance < 0, float("-inf")).softmax(-1)
    assert torch.allclose(output, p @ v, atol=1e-12)
    (gradient,) = torch.autograd.grad(output.square().sum(), table)
    assert (gradient[:3] != 0).all()
    assert (gradient[3] == 0).all()


def test_a_distance_that_leaves_no_wide_bucket_is_refused() -> None:
    with pytest.raises(SpecError, match="max_distance must exceed the 16 distances"):
        T5(max_distance=16)
    with pytest.raises(SpecError, match="buckets"):
        T5(buckets=2, bidirectional=True)
