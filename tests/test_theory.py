"""The claims of docs/theory.md about what is commonly misprinted, and that what it points at is there."""

from __future__ import annotations

import re
from math import cos, sin, sqrt
from pathlib import Path

import pytest
import torch

from attentune.kernels.layout import Layout
from attentune.layers.embedding import Embedding, sinusoid
from attentune.layers.norm import LayerNorm

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("theory.md", "theory.zh.md")


def test_the_sinusoid_by_hand() -> None:
    row = sinusoid(torch.tensor([[3]]), 6)[0, 0].tolist()
    angles = [3.0, 3 / 10000 ** (2 / 6), 3 / 10000 ** (4 / 6)]
    assert row == pytest.approx([f(angle) for angle in angles for f in (sin, cos)], abs=1e-6)
    assert row[2:4] == pytest.approx([0.138798, 0.990321], abs=1e-6)  # 3 / 21.5443 = 0.139248


def test_the_misprinted_sinusoid_tells_two_columns_of_place() -> None:
    place, pair = torch.arange(512.0)[:, None], torch.arange(8)
    misprinted = torch.sin(place / 10000.0**pair)
    assert (misprinted.std(0) > 1e-3).sum() == 2
    assert (misprinted[:, 2:].abs() < 1e-5).all()
    right = sinusoid(torch.arange(512)[None], 16)[0, :, ::2]
    assert (right.std(0) > 1e-2).all()


def test_raw_integers_vanish_in_the_first_norm() -> None:
    x, place = torch.randn(1, 5, 8, dtype=torch.float64), torch.arange(5)[None]
    norm = LayerNorm(8, bias=True).double()
    assert torch.allclose(norm(x + place[..., None]), norm(x), atol=1e-12)
    assert not torch.allclose(norm(x + sinusoid(place, 8).double()), norm(x), atol=1e-2)


@pytest.mark.parametrize("vocabulary", [10, 1000])
def test_embeddings_are_scaled_by_the_width_whatever_the_vocabulary(vocabulary: int) -> None:
    embedding = Embedding(vocab_size=vocabulary, width=64, context=8, position="none", scale=True)
    ids = torch.arange(8)[None]
    embedded = embedding(ids, Layout.plain(8))
    assert torch.allclose(embedded, 8.0 * embedding.table[ids])  # sqrt(64)
    assert embedded.std().item() == pytest.approx(1.0, abs=0.15)


def test_scores_of_unit_vectors_have_variance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (4, 64):
        q, k = (torch.randn(400, width, generator=generator, dtype=torch.float64) for _ in range(2))
        assert (q @ k.T / sqrt(width)).var().item() == pytest.approx(1.0, abs=0.05)


def test_reshaping_without_transposing_lets_the_future_in() -> None:
    def second(x: torch.Tensor, *, transposed: bool) -> torch.Tensor:
        q = x.view(1, 4, 2, 3).transpose(1, 2) if transposed else x.reshape(1, 2, 4, 3)
        o = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        return o.transpose(1, 2).reshape(1, 4, 6)[0, 1]

    x = torch.randn(1, 4, 6, dtype=torch.float64)
    changed = x.clone()
    changed[0, 3] += 1.0  # the second token must not know of the third and fourth
    changed[0, 2] += 1.0
    assert torch.equal(second(x, transposed=True), second(changed, transposed=True))
    assert not torch.equal(second(x, transposed=False), second(changed, transposed=False))
    assert torch.equal(x.reshape(1, 2, 4, 3)[0, 0].reshape(2, 6), x[0, :2])  # "head 0" is the first half of the tokens


def test_layer_norm_by_hand_with_epsilon_inside_the_root() -> None:
    norm = LayerNorm(4, bias=True).double()
    x = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]], dtype=torch.float64)  # mean 3, variance 14 / 4
    expected = [(value - 3) / sqrt(3.5 + 1e-5) for value in (1, 2, 3, 6)]
    assert norm(x).flatten().tolist() == pytest.approx(expected, abs=1e-12)
    assert norm(torch.full((1, 1, 4), 7.0, dtype=torch.float64)).abs().max() == 0  # not 0 / 0
    tiny = torch.tensor([[[0.0, 0.0, 0.0, 1e-9]]], dtype=torch.float64)
    assert norm(tiny).max().item() == pytest.approx(0.75e-9 / sqrt(1e-5), rel=1e-6)  # slope 1 / sqrt(eps)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_tests_that_the_theory_names_are_there(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    files = set(re.findall(r"`(src/[\w/]+\.py)`", text))
    assert len(files) > 15
    missing = [file for file in files if not (ROOT / file).is_file()]
    tests = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text))
    assert len(tests) > 20
    missing += [f"{file}::{test}" for file, test in tests if f"def {test}(" not in (ROOT / file).read_text("utf-8")]
    assert not missing
