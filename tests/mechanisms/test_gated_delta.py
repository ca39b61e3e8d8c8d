from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu, softplus

from attentune.mechanisms._matrix_state import Tokens, recurrence
from attentune.mechanisms.gated_delta import GatedDelta
from mechanisms.mixing import Tensors, begin, dims, random_parameters


def test_two_tokens_by_hand() -> None:
    # One column each, so that k = 1 or -1. b = .5, a = .5; v = 2, then 4 under the same key:
    # S1 = .5 * 2 = 1;  u2 = .5 (4 - .5 * 1) = 1.75, S2 = .5 * 1 + 1.75 = 2.25
    one = torch.ones(1, 1, 2, 1)
    v, beta, decay = torch.tensor([2.0, 4.0]).view(1, 1, 2, 1), torch.full((1, 1, 2), 0.5), torch.tensor(0.5).log()
    for form in GatedDelta.forms:
        o, state = recurrence(Tokens(2 * one, one, v, decay.expand(1, 1, 2), beta), torch.zeros(1, 1, 1, 1), form)
        assert o.flatten().tolist() == pytest.approx([2.0, 4.5])
        assert state.item() == pytest.approx(2.25)


def oracle(mixer: GatedDelta, params: Tensors, x: torch.Tensor) -> torch.Tensor:
    """One row, token by token, with the transition matrices of the paper written out."""
    length, width = x.shape
    heads, d = mixer.heads, width // mixer.heads
    qkv = x @ params["qkv"].T + params["qkv_bias"]
    if mixer.conv:
        held = torch.cat([torch.zeros(mixer.conv - 1, qkv.shape[1], dtype=x.dtype), qkv])
        qkv = torch.stack([(held[t : t + mixer.conv].T * params["conv"]).sum(-1) for t in range(length)])
    q, k, v = silu(qkv).split([width, width, width * mixer.expand], -1)
    rows = []
    states = [torch.zeros(d * mixer.expand, d, dtype=x.dtype) for _ in range(heads)]
    for t in range(length):
        parts = []
        for h in range(heads):
            q_t, k_t = (z[t, h * d : (h + 1) * d] for z in (q, k))
            q_t, k_t = q_t / q_t.norm(), k_t / k_t.norm()
            v_t = v[t].view(heads, -1)[h]
            b = torch.sigmoid(params["beta"][h] @ x[t])
            a = torch.ones((), dtype=x.dtype)
            if mixer.gate:
                a = torch.exp(-params["rate"][h].exp() * softplus(params["decay"][h] @ x[t] + params["step"][h]))
            erase = torch.eye(d, dtype=x.dtype) - b * torch.outer(k_t, k_t)
            states[h] = a * states[h] @ erase + b * torch.outer(v_t, k_t)
            o = states[h] @ q_t
            parts.append(o / (o.square().mean() + 1e-5).sqrt() * params["norm"])
        row = torch.cat(parts)
        if mixer.output_gate:
            row = row * silu(params["gate"] @ x[t])
        rows.append(params["out"] @ row + params["out_bias"])
    return torch.stack(rows)


@pytest.mark.parametrize("form", GatedDelta.forms)
@pytest.mark.parametrize(
    "mixer",
    [GatedDelta(heads=2, expand=2), GatedDelta(gate=False, output_gate=False, conv=0), GatedDelta(heads=2, conv=1)],
    ids=["gated", "plain", "own token"],
)
def test_by_the_transitions_of_the_paper(mixer: GatedDelta, form: str) -> None:
    params = random_parameters(mixer, 6)
    x = torch.randn(1, 67, 6, dtype=torch.float64, requires_grad=True)  # one token more than a chunk of 64, and two
    expected = oracle(mixer, params, x[0])
    y, _ = mixer.mix(params, x, begin(mixer, 6, 1), None, None, form)
    assert torch.allclose(y[0], expected, atol=1e-10)
    weights = torch.randn_like(expected)
    mine = torch.autograd.grad((y[0] * weights).sum(), [x, *params.values()])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *params.values()])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


def operands(length: int, *, beta: float) -> Tokens:
    q, v = torch.randn(2, 1, 1, length, 4, dtype=torch.float64)
    k = torch.nn.functional.normalize(torch.randn(1, 1, 1, 4, dtype=torch.float64), dim=-1).expand(1, 1, length, 4)
    return Tokens(q, k, v, None, torch.full((1, 1, length), beta, dtype=torch.float64))


def test_a_key_written_anew_is_replaced() -> None:
    tokens = operands(5, beta=1.0)
    _, state = recurrence(tokens, torch.randn(1, 1, 4, 4, dtype=torch.float64), "chunked")
    found = tokens.k[0, 0, 0] @ state[0, 0]
    assert torch.allclose(found, tokens.v[0, 0, -1], atol=1e-12)  # the last value alone, whatever was held before


def test_equal_keys_in_a_long_chunk_stay_exact_in_single_precision() -> None:
    exact = operands(64, beta=1.0)  # here the powers of A, by which some solve, grow to 2^60
    single = Tokens(*(x.float() for x in (exact.q, exact.k, exact.v)), None, exact.beta.float())  # type: ignore[union-attr]
    o, _ = recurrence(exact, torch.zeros(1, 1, 4, 4, dtype=torch.float64), "recurrent")
    y, _ = recurrence(single, torch.zeros(1, 1, 4, 4), "chunked")
    assert (y - o).abs().max() < 1e-5


@pytest.mark.parametrize("form", GatedDelta.forms)
def test_decays_that_forget_at_once_give_no_overflow(form: str) -> None:
    tokens = operands(64, beta=0.7)
    steps = torch.zeros(1, 1, 64, dtype=torch.float64)
    steps[..., 10::7] = -300.0  # the ratio of the decays at the two ends of the chunk is exp(-2400)
    steps[..., 11::7] = -1e-3
    steps.requires_grad_()
    exact, _ = recurrence(
        Tokens(tokens.q, tokens.k, tokens.v, steps, tokens.beta), torch.ones(1, 1, 4, 4).double(), "recurrent"
    )
    single = Tokens(*(x.float() for x in (tokens.q, tokens.k, tokens.v, steps)), tokens.beta.float())  # type: ignore[union-attr]
    y, _ = recurrence(single, torch.ones(1, 1, 4, 4), form)
    assert (y - exact).abs().max() < 2e-5
    (gradient,) = torch.autograd.grad(y.sum(), steps)
    assert gradient.isfinite().all()


def test_forgetting_starts_in_its_published_range() -> None:
    declared = GatedDelta(heads=64).parameters(dims(64))
    rate, step = (torch.empty(declared[name].shape) for name in ("rate", "step"))
    declared["rate"].init(rate)
    declared["step"].init(step)
    assert 1 <= rate.exp().min() < 4 < 12 < rate.exp().max() <= 16
    assert 0.000999 <= softplus(step).min() < 0.003 < 0.03 < softplus(step).max() <= 0.1001
    assert not declared["rate"].weight_decay and not declared["step"].weight_decay
    assert {"decay", "rate", "step", "gate"} & GatedDelta(gate=False, output_gate=False).parameters(
        dims(4)
    ).keys() == set()
