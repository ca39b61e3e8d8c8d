"""Hypotheses side by side in a tree, held against hypotheses that are rows of their own."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.generation.frontier import Frontier, Rows, Tree, frontier
from attentune.kernels import Layout
from attentune.kernels.kernel import Request
from attentune.kernels.layout import LayoutKind
from attentune.kernels.plan import KERNELS
from attentune.mechanisms import attention
from attentune.spec.positions import Positions
from generation.test_generate import ACCEPTED, make
from models.language import tokens
from models.seq2seq import PAIRS, encoder_decoder

REAL = torch.tensor([[True] * 5, [True, True, True, False, False], [False, True, True, True, True]])
TREES = [name for name in PAIRS if "halting" not in name]


def grow(made: Frontier, vocabulary: int) -> list[torch.Tensor]:
    """12 steps of 4 hypotheses with random parents; after 8 the last source is left out."""
    generator, given = torch.Generator().manual_seed(7), [made.start().hidden]
    for step in range(12):
        token = torch.randint(vocabulary, (3, 4), generator=generator)
        parent = torch.randint(1 if step == 0 else 4, (3, 4), generator=generator)
        rows = 3 if step < 8 else 2
        seen = made.step(token[:rows], parent[:rows])
        given += [seen.hidden] if seen.weights is None else [seen.hidden, seen.weights]
        if step == 7:
            made.keep(torch.tensor([0, 1]))
    return given


@torch.no_grad()
@pytest.mark.parametrize("name", TREES)
def test_a_tree_equals_rows(name: str) -> None:
    model, source = encoder_decoder(name), tokens(3, 5)
    first = torch.ones(3, 1, dtype=torch.long)
    found = []
    for kind in (Tree, Rows):
        encoded = model.encode(source, Layout.padded(REAL))
        found.append(grow(kind(model.decoder, first, None, encoded, weigh=True), 17))
    assert len(found[0]) == 25
    for tree, rows in zip(*found, strict=True):
        assert torch.allclose(tree, rows, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("text", [text for text in ACCEPTED if "prefix" not in text])
@pytest.mark.parametrize("padded", [False, True])
def test_a_tree_after_a_prompt_equals_rows(text: str, padded: bool) -> None:
    model, prompt = make(text, position="learned"), tokens(3, 5)
    found = [grow(kind(model, prompt, REAL if padded else None, None, weigh=False), 31) for kind in (Tree, Rows)]
    for tree, rows in zip(*found, strict=True):
        assert torch.allclose(tree, rows, atol=1e-9)


@torch.no_grad()
def test_tokens_that_nobody_descends_from_leave_the_cache() -> None:
    model = make(ACCEPTED[0])
    tree = Tree(model, tokens(2, 3), None, None, weigh=False)
    tree.start()
    for _ in range(20):  # all follow the first hypothesis
        tree.step(tokens(2, 4), torch.zeros(2, 4, dtype=torch.long))
    cache = tree.state.layers[0].cache
    assert cache is not None
    assert 3 + 20 + 3 <= cache.length < 3 + 20 + 3 + 20 < 3 + 4 * 20


def test_models_whose_tokens_halt_have_rows() -> None:
    model = encoder_decoder("halting encoder and decoder")
    first = torch.ones(1, 1, dtype=torch.long)
    assert isinstance(frontier(model.decoder, first, None, None, weigh=False), Rows)
    assert isinstance(frontier(encoder_decoder("plain").decoder, first, None, None, weigh=False), Tree)
    state = model.decoder.start(1)
    model(first, source=tokens(1, 5), state=state)
    known, new = Positions.arange(2), Positions.arange(1, start=1)
    with pytest.raises(SpecError, match="a tree of texts cannot be decoded by a model whose tokens halt"):
        model(first, Layout.tree(new, known, torch.ones(1, 1, 2, dtype=torch.bool)), state=state)


def test_a_tree_needs_a_place_for_every_token() -> None:
    model = make(ACCEPTED[0])
    state = model.start(1)
    model(tokens(1, 3), state=state)
    layout = Layout.tree(Positions.arange(1, start=3), Positions.arange(3), torch.ones(1, 1, 3, dtype=torch.bool))
    with pytest.raises(SpecError, match="a place for each of 3 known tokens and each new one, got 3"):
        model(tokens(1, 1), layout, state=state)


def test_kernels_that_read_positions_alone_refuse_trees() -> None:
    spec = attention("heads=2, mask=causal")
    dims = spec.heads.dims(width=16, source_width=16, depth=1, bias=False, cross=False)
    request = Request(spec, dims, batch=1, query_length=4, key_length=9, layout=LayoutKind.TREE)
    refusals = {name: [reason.part for reason in kernel.supports(request)] for name, kernel in KERNELS.items()}
    assert "layout=tree" in refusals["blocked"] and "layout=tree" in refusals["flex"]
    assert refusals["sdpa"] == refusals["reference"] == []
