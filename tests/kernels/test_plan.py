from __future__ import annotations

import pytest
import torch

from attentune.errors import KernelError
from attentune.kernels import KERNELS, LayoutKind, Request, plan
from attentune.mechanisms import attention
from kernels.attending import attend, operands, sizes


def request(text: str, **changes: object) -> Request:
    spec = attention(text)
    return Request(spec, sizes(spec), 2, 64, 64, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "changes", "parts"),
    [
        (
            "heads=2, mask=causal, similarity=additive, normalizer=entmax15, head_mix=talking_heads",
            {"dropout": 0.1},
            ["similarity=additive", "normalizer=entmax15", "head_mix=talking_heads", "dropout"],
        ),
        (
            "heads=2, mask=causal, scores=soft_cap(9.0), selector=top_k_blocks(4, 2)",
            {},
            ["scores=soft_cap", "selector=top_k_blocks"],
        ),
        ("heads=2, position=t5", {"needs_grad": True}, ["position=t5: PyTorch's CPU kernel gives a mask no gradient"]),
        ("heads=latent(2, 4, rotary=2)", {}, ["heads=latent"]),
        ("heads=2, scores=residual_scores", {}, ["scores=residual_scores"]),
        ("heads=2, position=alibi, scores=temperature", {}, ["scores=temperature"]),
        ("heads=2", {"wanted": frozenset({"output", "weights", "lse"})}, ["wanted=lse", "wanted=weights"]),
    ],
)
def test_a_kernel_asked_for_by_name_tells_all_its_reasons(
    text: str, changes: dict[str, object], parts: list[str]
) -> None:
    with pytest.raises(KernelError) as refusal:
        plan(request(text, **changes), "sdpa")
    message = str(refusal.value)
    assert message.startswith("kernel sdpa cannot compute this attention: ")
    assert message.count(";") == len(parts) - 1
    assert all(part in message for part in parts), message


def test_flex_on_a_cpu_tells_what_it_lacks() -> None:
    with pytest.raises(KernelError, match="gradients: FlexAttention has no backward pass on a CPU"):
        plan(request("heads=2", needs_grad=True), "flex")
    with pytest.raises(KernelError, match="dtype=float64"):
        plan(request("heads=2", dtype=torch.float64), "flex")
    with pytest.raises(KernelError, match="normalizer=softmax_off_by_one: FlexAttention gives no log-sum-exp on a CPU"):
        plan(request("heads=2, normalizer=softmax_off_by_one"), "flex")
    with pytest.raises(KernelError, match="heads=latent: values must be as wide as keys"):
        plan(request("heads=latent(2, 4, rotary=2)"), "flex")


def test_the_plan_explains_every_kernel() -> None:
    chosen = plan(request("heads=2, mask=causal", needs_grad=True))
    assert chosen.choice == "sdpa"
    text = chosen.explain()
    assert "kernel     sdpa" in text
    assert "heads=2, mask=causal" in text
    assert "64 queries x 64 keys" in text
    assert "not flex       gradients: FlexAttention has no backward pass on a CPU" in text
    assert "not reference  able, but predicted" in text
    assert set(chosen.refusals) | set(chosen.costs) == set(KERNELS)


def test_a_cpu_compiles_flex_for_no_work_and_tiles_serve_the_large() -> None:
    text = "heads=2, mask=window(64), scores=soft_cap(5.0)"
    small = plan(request(text))
    assert small.choice in ("reference", "blocked")
    assert "costs more than it saves" in small.why_not("flex")
    spec = attention(text)
    large = plan(Request(spec, sizes(spec, head_width=64), 4, 16384, 16384))
    assert large.choice == "blocked"
    assert large.seconds["reference"] > 20 * large.seconds["blocked"]


def test_the_reference_computes_everything_at_a_cost_that_grows() -> None:
    for layout in LayoutKind:
        assert KERNELS["reference"].supports(request("heads=2, similarity=additive", layout=layout)) == ()
    short, long = (
        KERNELS["reference"].cost(Request(attention("heads=2"), sizes(attention("heads=2")), 1, n, n)) for n in (8, 16)
    )
    assert long.operations == 4 * short.operations
    assert short.bytes < long.bytes < 4 * short.bytes + 1


def test_misspelt_names_are_met_with_near_ones() -> None:
    with pytest.raises(KernelError, match="unknown kernel 'spda'; did you mean 'sdpa'"):
        plan(request("heads=2"), "spda")
    with pytest.raises(KernelError, match="wanted output 'weight' is unknown; did you mean 'weights'"):
        request("heads=2", wanted=frozenset({"weight"}))


def test_what_else_may_be_wanted_agrees_with_the_weights() -> None:
    spec = attention("heads=2, mask=causal")
    q, k, v = operands(sizes(spec), 5)
    wanted = frozenset({"output", "lse", "weights", "column_mass", "entropy", "top_k"})
    found = attend(spec, q, k, v, wanted=wanted).extra
    s = (q @ k.mT / 2).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf"))
    p = s.softmax(-1)
    assert torch.allclose(found["weights"], p, atol=1e-12)
    assert torch.allclose(found["lse"], s.logsumexp(-1), atol=1e-12)
    assert torch.allclose(found["column_mass"], p.sum(2), atol=1e-12)
    assert torch.allclose(found["entropy"], -(p * p.clamp(min=1e-300).log()).sum(-1), atol=1e-12)
    best, index = found["top_k"]
    assert torch.allclose(p.gather(-1, index), best)
    assert torch.allclose(best[..., 0], p.amax(-1))
