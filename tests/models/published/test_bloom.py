from __future__ import annotations

import pytest

from attentune.models.published import bloom
from models.published.comparing import assert_same, published, rows

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize("heads", [4, 6])  # slopes of 6 heads are filled up from those of 8
def test_bloom(heads: int) -> None:
    config = transformers.BloomConfig(vocab_size=61, hidden_size=24, n_layer=3, n_head=heads, initializer_range=0.2)
    spec = bloom.spec(config.to_dict())
    assert str(spec.layers[0]) == f"heads={heads}, position=alibi, mask=causal"
    assert_same(published(transformers.BloomForCausalLM, config), spec, bloom.weights, rows(61, 2, 19))
