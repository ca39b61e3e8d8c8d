from __future__ import annotations

import pytest
import torch
from torch.nn.functional import bilinear

from attentune.errors import SpecError
from attentune.mechanisms import attention
from attentune.mechanisms.bilinear import Bilinear
from kernels.attending import attend, operands, sizes


def test_by_hand() -> None:
    dims = sizes(attention("heads=1, similarity=bilinear"), head_width=2)
    w = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]])
    s = Bilinear().scores({"w": w}, dims, torch.tensor([[[[3.0, 5.0]]]]), torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]]))
    assert s.flatten().tolist() == [3.0, 1.0]  # q^T W = (3, 6 - 5)


def test_every_head_has_a_matrix_of_its_own() -> None:
    dims = sizes(attention("heads=2, similarity=bilinear"), head_width=3)
    w = torch.randn(2, 3, 3, dtype=torch.float64)
    q, k = torch.randn(1, 2, 4, 3, dtype=torch.float64), torch.randn(1, 2, 5, 3, dtype=torch.float64)
    s = Bilinear().scores({"w": w}, dims, q, k)
    for h in range(2):
        pairs = q[0, h, :, None].expand(4, 5, 3), k[0, h, None].expand(4, 5, 3)
        expected = bilinear(*(pair.reshape(20, 3) for pair in pairs), w[h][None])  # x1^T W x2 of torch
        assert torch.allclose(s[0, h], expected.view(4, 5), atol=1e-12)


def test_the_identity_is_the_dot_product_and_the_matrix_learns() -> None:
    spec = attention("heads=4/2, similarity=bilinear, mask=causal")
    q, k, v = operands(sizes(spec), 5)
    w = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1).requires_grad_()
    output = attend(spec, q, k, v, params={"similarity": [{"w": w}]}).output
    assert torch.allclose(output, attend("heads=4/2, similarity=dot, mask=causal", q, k, v).output, atol=1e-12)
    assert (torch.autograd.grad(output.square().sum(), w)[0] != 0).all()


def test_scores_start_with_variance_one() -> None:
    dims = sizes(attention("heads=2, similarity=bilinear"), head_width=64)
    w = torch.empty(2, 64, 64)
    Bilinear().parameters(dims)["w"].init(w)
    s = Bilinear().scores({"w": w}, dims, torch.randn(1, 2, 100, 64), torch.randn(1, 2, 100, 64))
    assert 0.8 < s.std() < 1.2


def test_rotary_is_refused_because_the_matrix_mixes_what_it_turns() -> None:
    with pytest.raises(SpecError, match="similarity=bilinear does not"):
        attention("heads=2, similarity=bilinear, position=rotary")
