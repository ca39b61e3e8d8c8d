"""What holds for every mixer: its forms agree, padding is inert, documents are isolated, states can be handed on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attentune.errors import SpecError
from attentune.mechanisms.gated_delta import GatedDelta
from attentune.mechanisms.layer_norm import LayerNormBranch
from attentune.mechanisms.linear_attention import LinearAttention
from attentune.mechanisms.lstm import LSTM
from attentune.mechanisms.retention import Retention
from attentune.mechanisms.short_conv import ShortConv
from attentune.spec.slots import Mixer
from attentune.spec.text import format_value
from mechanisms.mixing import after_some, assert_same, begin, dims, gradients, random_parameters
from unchecked import run_without_shape_checks

WIDTH = 8
MIXERS: list[Mixer] = [
    LinearAttention(heads=2),
    LinearAttention(heads=2, conv=3),
    LinearAttention(heads=1, features="random", directions=6, seed=3),
    GatedDelta(heads=2, expand=2),
    GatedDelta(heads=1, gate=False, output_gate=False, conv=0),
    Retention(heads=2),
    Retention(heads=1, expand=2, conv=2),
    ShortConv(size=3, activation="silu"),
    ShortConv(size=1),
    LSTM(),
    LayerNormBranch(),
]
each = pytest.mark.parametrize("mixer", MIXERS, ids=format_value)
with_forms = pytest.mark.parametrize(
    ("mixer", "form"),
    [pytest.param(mixer, form, id=f"{format_value(mixer)}-{form}") for mixer in MIXERS for form in mixer.forms],
)


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four tokens, so that short rows have several."""
    for module in ("_matrix_state", "short_conv"):
        monkeypatch.setattr(f"attentune.mechanisms.{module}.CHUNK", 4)


def layouts(length: int) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
    """No padding nor documents; padding left, right and between; documents; both, with a start on padding."""
    valid = torch.ones(3, length, dtype=torch.bool)
    valid[0, :2] = valid[1, -1:] = valid[1, 3:6] = valid[2] = False
    starts = torch.zeros(3, length, dtype=torch.bool)
    starts[0, 0] = starts[0, 5] = starts[1, 2] = starts[1, 3] = starts[2, 4] = True
    return [(None, None), (valid, None), (None, starts), (valid, starts)]


@each
@pytest.mark.parametrize("length", [1, 3, 4, 13])
def test_forms_agree_in_outputs_states_and_gradients(mixer: Mixer, length: int) -> None:
    params = random_parameters(mixer, WIDTH)
    state = after_some(mixer, params, WIDTH, 3)
    x = torch.randn(3, length, WIDTH, dtype=torch.float64)
    for valid, starts in layouts(13):
        valid, starts = (None if side is None else side[:, :length] for side in (valid, starts))
        expected = gradients(mixer, params, x, state, valid, starts, mixer.forms[-1])
        assert expected["y"].abs().max() > 0 or valid is not None
        for form in (*mixer.forms, "auto"):
            assert_same(gradients(mixer, params, x, state, valid, starts, form), expected)


@with_forms
def test_padding_is_as_if_it_were_not_there(mixer: Mixer, form: str) -> None:
    params = random_parameters(mixer, WIDTH)
    x = torch.randn(1, 7, WIDTH, dtype=torch.float64)
    expected = gradients(mixer, params, x, begin(mixer, WIDTH, 1), None, None, form)
    valid = torch.tensor([[False, True, True, False, False, True, True, True, True, False, True, False]])
    poisoned = torch.full((1, 12, WIDTH), float("nan"), dtype=torch.float64)
    poisoned[valid] = x[0]
    y, after = mixer.mix(params, poisoned, begin(mixer, WIDTH, 1), valid, None, form)
    assert torch.allclose(y[valid], expected["y"][0], atol=1e-12)
    assert (y[~valid] == 0).all()
    for name, held in after.items():
        assert torch.allclose(held, expected[f"after.{name}"], atol=1e-12), name
    weights = torch.randn(12, WIDTH, dtype=torch.float64)
    real = torch.autograd.grad((y * weights).sum(), list(params.values()), allow_unused=True)
    alone, _ = mixer.mix(params, x, begin(mixer, WIDTH, 1), None, None, form)
    plain = torch.autograd.grad((alone * weights[valid[0]]).sum(), list(params.values()), allow_unused=True)
    for one, other in zip(real, plain, strict=True):
        assert one is not None and other is not None and torch.allclose(one, other, atol=1e-10)


@with_forms
def test_a_row_of_padding_alone_gives_zero_and_keeps_its_state(mixer: Mixer, form: str) -> None:
    params = random_parameters(mixer, WIDTH)
    x = torch.full((2, 5, WIDTH), float("nan"), dtype=torch.float64)
    valid = torch.zeros(2, 5, dtype=torch.bool)
    for before in (begin(mixer, WIDTH, 2), after_some(mixer, params, WIDTH, 2)):
        y, after = mixer.mix(params, x, before, valid, None, form)
        assert (y == 0).all()
        for name, held in after.items():
            assert torch.equal(held, before[name])
        found = torch.autograd.grad(y.sum(), list(params.values()), allow_unused=True)
        assert all(gradient is None or (gradient == 0).all() for gradient in found)


@with_forms
def test_documents_of_a_row_know_nothing_of_each_other(mixer: Mixer, form: str) -> None:
    params = random_parameters(mixer, WIDTH)
    x = torch.randn(2, 11, WIDTH, dtype=torch.float64)
    starts = torch.zeros(2, 11, dtype=torch.bool)
    starts[:, [0, 3, 4, 9]] = True
    y, after = mixer.mix(params, x, after_some(mixer, params, WIDTH, 2), None, starts, form)
    for first, end in ((0, 3), (3, 4), (4, 9), (9, 11)):
        alone, last = mixer.mix(params, x[:, first:end], begin(mixer, WIDTH, 2), None, None, form)
        assert torch.allclose(y[:, first:end], alone, atol=1e-11)
    for name in after:
        assert torch.allclose(after[name], last[name], atol=1e-11), name
    changed = x.clone()
    changed[:, :9] = float("nan")  # not even what is not a number
    if form == "recurrent":
        z, _ = mixer.mix(params, changed, begin(mixer, WIDTH, 2), None, starts, form)
        assert torch.allclose(z[:, 9:], y[:, 9:], atol=1e-12)


@with_forms
def test_later_tokens_change_nothing(mixer: Mixer, form: str) -> None:
    params = random_parameters(mixer, WIDTH)
    x = torch.randn(1, 10, WIDTH, dtype=torch.float64)
    y, _ = mixer.mix(params, x, begin(mixer, WIDTH, 1), None, None, form)
    other = x.clone()
    other[:, 6:] = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    z, _ = mixer.mix(params, other, begin(mixer, WIDTH, 1), None, None, form)
    assert torch.allclose(y[:, :6], z[:, :6], atol=1e-12)
    assert not torch.allclose(y[:, 6:], z[:, 6:], atol=1e-3)


@with_forms
def test_in_pieces_equals_at_once(mixer: Mixer, form: str) -> None:
    params = random_parameters(mixer, WIDTH)
    x = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    valid = torch.rand(2, 12) > 0.3
    whole, last = mixer.mix(params, x, begin(mixer, WIDTH, 2), valid, None, form)
    state, parts = begin(mixer, WIDTH, 2), []
    for piece, there in zip(x.split([5, 1, 1, 5], 1), valid.split([5, 1, 1, 5], 1), strict=True):
        y, state = mixer.mix(params, piece, state, there, None, form)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-11)
    for name, held in last.items():
        assert torch.allclose(state[name], held, atol=1e-11), name


@each
def test_rows_of_a_state_can_be_chosen(mixer: Mixer) -> None:
    params = random_parameters(mixer, WIDTH)
    state, rows = after_some(mixer, params, WIDTH, 3), torch.tensor([2, 0, 0])
    x = torch.randn(3, 2, WIDTH, dtype=torch.float64)
    y, _ = mixer.mix(params, x, state, None, None)
    chosen = {name: held.index_select(0, rows) for name, held in state.items()}
    z, _ = mixer.mix(params, x[rows], chosen, None, None)
    assert torch.allclose(z, y[rows], atol=1e-12)


@with_forms
def test_low_precision_adds_up_in_float32(mixer: Mixer, form: str) -> None:
    params = random_parameters(mixer, WIDTH)
    x = torch.randn(2, 60, WIDTH, dtype=torch.float64).bfloat16()
    low = {name: held.detach().bfloat16() for name, held in params.items()}
    valid = torch.ones(2, 60, dtype=torch.bool)
    y, state = mixer.mix(low, x, begin(mixer, WIDTH, 2, dtype=torch.bfloat16), valid, None, form)
    assert y.dtype is torch.bfloat16
    assert all(held.dtype in (torch.float32, torch.int64) for held in state.values())
    same = {name: held.double() for name, held in low.items()}
    exact, _ = mixer.mix(same, x.double(), begin(mixer, WIDTH, 2), valid, None, form)
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()


@with_forms
def test_long_rows_stay_exact(mixer: Mixer, form: str) -> None:
    params = {name: held.detach() for name, held in random_parameters(mixer, WIDTH).items()}
    x = 2 * torch.randn(1, 500, WIDTH, dtype=torch.float64)
    exact, _ = mixer.mix(params, x, begin(mixer, WIDTH, 1), None, None, mixer.forms[-1])
    single = {name: held.float() for name, held in params.items()}
    y, _ = mixer.mix(single, x.float(), begin(mixer, WIDTH, 1, dtype=torch.float32), None, None, form)
    plain, _ = mixer.mix(single, x.float(), begin(mixer, WIDTH, 1, dtype=torch.float32), None, None, mixer.forms[-1])
    allowed = 4 * (plain - exact).abs().max() + 16 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (y - exact).abs().max() <= allowed


@each
def test_reads_only_width_depth_and_bias(mixer: Mixer) -> None:
    names = mixer.parameters(dims(WIDTH)).keys()
    biases = {"qkv_bias", "out_bias", "norm_bias", "bias"} & mixer.parameters(dims(WIDTH, bias=True)).keys()
    assert mixer.parameters(dims(WIDTH, bias=True)).keys() == names | biases


@each
def test_an_unknown_form_is_an_error(mixer: Mixer) -> None:
    params = random_parameters(mixer, WIDTH)
    with pytest.raises(SpecError, match=f"^{mixer.kind} has no form 'chunky'; .*known: auto"):
        mixer.mix(params, torch.zeros(1, 1, WIDTH, dtype=torch.float64), begin(mixer, WIDTH, 1), None, None, "chunky")
    assert mixer.preferred(1) in mixer.forms and mixer.preferred(100) in mixer.forms


def test_compiled() -> None:
    run_without_shape_checks(Path(__file__).with_name("compiled_mixers.py"), at_least=6)


@pytest.mark.slow
def test_compiled_on_full_rows() -> None:
    run_without_shape_checks(Path(__file__).with_name("compiled_mixers.py"), at_least=4, marked="slow")
