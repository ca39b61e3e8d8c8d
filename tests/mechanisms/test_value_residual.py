from __future__ import annotations

import pytest
import torch

from attentune.errors import SpecError
from attentune.layers.attention import Attention
from attentune.mechanisms import attention, layer
from attentune.mechanisms.value_residual import ValueResidual
from models.language import decoder, in_chunks, tokens

TEXT = "heads=4/2, mask=causal, position=rotary"


def test_the_sum_with_the_first_layers_values_by_hand() -> None:
    v, first = torch.tensor([[[[2.0]]]]), torch.tensor([[[[10.0]]]])
    fixed = ValueResidual(own=0.25, first=3.0, learned=False)
    assert [t.item() for t in fixed.mix({}, v, first)] == [30.5, 10.0]
    assert [t.item() for t in fixed.mix({}, v, None)] == [6.5, 2.0]
    params = {"own": torch.tensor([-1.0]), "first": torch.tensor([0.5])}
    assert [t.item() for t in ValueResidual().mix(params, v, first)] == [3.0, 10.0]


def test_every_layer_receives_the_values_of_the_first() -> None:
    mixed = decoder(f"{TEXT}, combine=value_residual(0.0, 1.0, learned=false)", depth=3)
    ids = tokens(2, 7)
    before = mixed(ids).logits
    with torch.no_grad():
        for block in list(mixed.layers)[1:]:
            block.attention.held["heads"][0].qkv[-8:] = 7.0  # values of their own: two heads of 4 columns
    assert torch.equal(mixed(ids).logits, before)
    with torch.no_grad():
        mixed.layers[0].attention.held["heads"][0].qkv[-8:] += 0.5
    assert not torch.allclose(mixed(ids).logits, before)


@pytest.mark.parametrize("first", [0.0, 2.0])
def test_without_the_first_layers_share_it_is_plain(first: float) -> None:
    mixed = decoder(f"{TEXT}, combine=value_residual(1.0, {first}, learned=false)")
    plain = decoder(TEXT)
    ids = tokens(2, 7)
    plain.load_state_dict(mixed.state_dict())
    assert torch.allclose(mixed(ids).logits, plain(ids).logits, atol=1e-12) == (first == 0.0)


def test_it_begins_as_plain_in_the_first_layer_and_both_numbers_learn_in_every_layer() -> None:
    model = decoder(f"{TEXT}, combine=value_residual", depth=3)
    model(tokens(2, 7)).logits.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if ".combine." in name}
    assert len(found) == 6
    assert all(grad is not None and grad.abs().item() > 1e-6 for grad in found.values())
    fresh = Attention(attention(f"{TEXT}, combine=value_residual"), width=8).held["combine"][0]
    assert (fresh.own.item(), fresh.first.item()) == (0.5, 0.5)


def test_mixed_values_are_cached() -> None:
    model = decoder(f"{TEXT}, combine=value_residual", depth=3)
    ids = tokens(2, 9)
    assert torch.allclose(in_chunks(model, ids, (4, 1, 3, 1)), model(ids).logits, atol=1e-10)


def test_where_there_is_no_value_to_hand_on_it_is_refused() -> None:
    with pytest.raises(SpecError, match="value_residual mixes whole values; heads=latent caches none"):
        attention("heads=latent(2, 4), combine=value_residual")
    with pytest.raises(SpecError, match="hands nothing from layer to layer: combine=value_residual would do nothing"):
        layer("heads=2, mask=causal, cross=attention(heads=2, combine=value_residual)")
    with pytest.raises(SpecError, match="value_residual hands values from layer to layer: every layer needs it"):
        decoder("heads=2, mask=causal, combine=value_residual", "heads=2, mask=causal")
    with pytest.raises(SpecError, match=r"value_residual hands values from layer to layer: .* with equal heads"):
        decoder("heads=2, mask=causal, combine=value_residual", "heads=4, mask=causal, combine=value_residual")
