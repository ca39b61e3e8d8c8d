"""N-grams of tokens: which there are, where a row is padded or packed, and which models may have them."""

from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.kernels.layout import Layout
from attentune.layers.ngrams import NgramEmbedding
from attentune.mechanisms import layer
from attentune.models.encoder import Encoder
from attentune.models.encoder_decoder import EncoderDecoder
from attentune.spec.model import ModelSpec
from attentune.spec.ngrams import NgramSpec

WIDTH = 6
SEEN, CAUSAL = layer("heads=2, mask=full"), layer("heads=2, mask=causal, cross=attention(heads=2)")


def _filled(**fields: float) -> NgramEmbedding:
    """N-grams whose vectors are drawn, in so many buckets that no two pieces of a test share one."""
    module = NgramEmbedding(NgramSpec(buckets=100_003, **fields), width=WIDTH)
    torch.manual_seed(0)
    with torch.no_grad():
        for table in module.tables:
            table.normal_()
    return module


def _model(**fields: object) -> ModelSpec:
    return ModelSpec(vocab_size=20, width=8, depth=1, context=16, layers=(SEEN,), **fields)


def test_each_piece_has_one_vector_wherever_it_stands() -> None:
    module = _filled(longest=3)
    ids = torch.tensor([[5, 7, 9, 5, 7, 9, 7, 5]])
    x = module(ids, Layout.plain(8))
    assert (x[0, 0] == 0).all(), "nothing stands before the first token"
    only_pair = _filled(longest=3)
    with torch.no_grad():
        only_pair.tables[1].zero_()
    pairs = only_pair(ids, Layout.plain(8))[0]
    torch.testing.assert_close(pairs[1], pairs[4])  # 5 7
    torch.testing.assert_close(pairs[2], pairs[5])  # 7 9
    assert not torch.allclose(pairs[1], pairs[7]), "7 5 is not 5 7"
    torch.testing.assert_close(x[0, 2], x[0, 5])  # 5 7 9, its pair included
    assert not torch.allclose(x[0, 2], pairs[2]), "longer pieces add vectors of their own"
    torch.testing.assert_close(x[0, 1], pairs[1])  # no three tokens yet


@pytest.mark.parametrize("left", [0, 2])
def test_padding_is_in_no_piece(left: int) -> None:
    module = _filled(longest=3)
    ids = torch.tensor([[4, 3, 8]])
    alone = module(ids, Layout.plain(3))
    padded = torch.nn.functional.pad(ids, (left, 3 - left), value=4)
    valid = torch.nn.functional.pad(torch.ones_like(ids), (left, 3 - left)).bool()
    x = module(padded, Layout.padded(valid))
    torch.testing.assert_close(x[:, left : left + 3], alone)
    assert (x[~valid] == 0).all()


def test_no_piece_reaches_over_padding_or_from_document_to_document() -> None:
    module = _filled(longest=2)
    ids = torch.tensor([[4, 3, 4, 3, 8]])
    gap = module(ids, Layout.padded(torch.tensor([[True, False, True, True, True]])))
    assert (gap[0, :3] == 0).all() and (gap[0, 3] != 0).all()
    packed = module(ids, Layout.packed(torch.tensor([[0, 0, 1, 1, 1]])))
    assert (packed[0, [0, 2]] == 0).all()
    torch.testing.assert_close(packed[0, 1], packed[0, 3])


def test_dropout_leaves_pieces_out_in_training_alone() -> None:
    module = _filled(longest=2, dropout=0.5)
    ids = torch.randint(0, 50, (40, 50), generator=torch.Generator().manual_seed(0))
    layout = Layout.plain(50)
    kept = (module(ids, layout)[:, 1:] != 0).any(-1).float().mean().item()
    assert 0.4 < kept < 0.6
    module.eval()
    assert (module(ids, layout)[:, 1:] != 0).any(-1).all()


def test_a_fresh_model_is_the_one_without_and_learns_the_pieces() -> None:
    torch.manual_seed(0)
    plain = Encoder(_model())
    torch.manual_seed(0)
    module = Encoder(_model(ngrams=NgramSpec(longest=2, buckets=50)))
    module.load_state_dict(plain.state_dict(), strict=False)
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(module(ids).x, plain(ids).x)
    (module(ids).x * torch.randn(8)).sum().backward()
    (table,) = module.embedding.ngrams.tables  # type: ignore[union-attr]
    assert table.grad is not None and int((table.grad != 0).any(-1).sum()) == 3


def test_text_that_is_made_token_by_token_is_refused() -> None:
    with pytest.raises(SpecError, match="see a text whole"):
        _model(ngrams=NgramSpec()).replace(layers=(layer("heads=2, mask=causal"),))
    with pytest.raises(SpecError, match="cannot go on from a state"):
        Encoder(_model(ngrams=NgramSpec())).start(1)


def test_an_encoder_beside_a_decoder_may_have_them() -> None:
    encoder = _model(ngrams=NgramSpec(buckets=31))
    torch.manual_seed(0)
    model = EncoderDecoder(_model().replace(layers=(CAUSAL,), encoder=encoder))
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids, source=ids).logits
    with torch.no_grad():
        model.encoder.embedding.ngrams.tables[0].normal_()  # type: ignore[union-attr]
    assert not torch.allclose(model(ids, source=ids).logits, before)
