"""Weights that a model takes over from another one, row by row of its vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch

from attentune.mechanisms import layer
from attentune.models.build import build
from attentune.models.checkpoint import weights_of
from attentune.spec.model import ModelSpec
from attentune.tasks.origin import TRUNK, Origin, fill

SMALL = ModelSpec(vocab_size=9, width=8, depth=1, layers=(layer("heads=2, mask=causal"),), context=8, head_bias=True)


def test_tokens_that_only_the_model_has_begin_about_the_mean_of_the_known_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    given = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights_of(build(SMALL, seed=0)).items()
    }
    wider = SMALL.replace(vocab_size=12)
    drawn, model = build(wider, seed=3), build(wider, seed=3)
    filled = fill(model, Origin(Path("there"), "a language model", "lm", SMALL, {TRUNK: given}))
    found, fresh = weights_of(model), weights_of(drawn)
    assert filled == found.keys() == given.keys()
    assert {"embedding.table", "head_bias"} <= found.keys()
    for name, tensor in found.items():
        if name not in ("embedding.table", "head_bias"):
            assert tensor.equal(given[name])
            continue
        assert tensor[:9].equal(given[name])
        torch.testing.assert_close(tensor[9:], fresh[name][9:] + given[name].mean(0))
