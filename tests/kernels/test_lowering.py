"""Our side of the compiled core: with a plain stand-in for it, table, steps and folding give the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from attentune.kernels import KERNELS, Call, Layout, Request, native, plan
from attentune.kernels.blocked import Blocked
from attentune.kernels.lowering import lowered, obstacle
from attentune.kernels.tile_table import tile_table
from attentune.mechanisms import attention
from attentune.spec.score_steps import AddByDistance, LogAddExpByDistance, MultiplyByQuery, SoftCap
from attentune.verification.inputs import LAYOUTS, LONG
from attentune.verification.kernel_checks import KernelCase, documents_are_isolated, exact, padding_is_inert
from kernels import stand_in
from kernels.attending import operands, parameters, sizes

BLOCKED = KERNELS["blocked"]
ORDERED = [
    "heads=4/2, mask=causal & window(3), position=alibi",
    "heads=2, mask=causal, position=t5(buckets=6, max_distance=9, bidirectional=true)",
    "heads=2, mask=causal, position=t5(buckets=6, max_distance=9), scores=temperature + soft_cap(2.0) + scale(1.5)",
    "heads=2, mask=causal, scores=temperature + length_temperature(4, learned=true) + soft_cap(2.0)",
    "heads=2, scores=soft_cap(3.0) + length_temperature(4) + learned_bias(3, bidirectional=true)",
    "heads=4/2, mask=causal, scores=learned_bias(3) + adaptive_weight(distance, length=4)",
    "heads=2, mask=causal, scores=adaptive_span(5, ramp=2, initial=0.3)",
    "heads=2, mask=prefix, position=rotary, normalizer=learned_sink",
    "heads=2, mask=causal, normalizer=sigmoid(learned=true), position=alibi",
    "heads=2, mask=causal & window(2), normalizer=relu2, scores=scale(0.5)",
    "heads=2, mask=~causal, normalizer=softmax_off_by_one",
]
UNORDERED = [
    "heads=4/2, scores=adaptive_weight + temperature",
    "heads=multi_query(2), normalizer=sigmoid(bias=-1.0)",
    "heads=latent(2, 4, rotary=2)",
    "heads=2, normalizer=learned_sink, scores=soft_cap(1.0)",
]


@pytest.fixture(autouse=True)
def _core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: None)
    monkeypatch.setattr(native, "forward", stand_in.forward)


def cases() -> Iterator[tuple[str, str, torch.dtype]]:
    for text in ORDERED + UNORDERED:
        for layout in LAYOUTS:
            if layout != "cross" or text in UNORDERED:
                for dtype in (torch.float64, torch.float32, torch.bfloat16):
                    yield text, layout, dtype


@pytest.mark.parametrize("text", ORDERED + UNORDERED)
def test_the_steps_are_the_attention(text: str) -> None:
    for of, layout, dtype in cases():
        if of != text:
            continue
        case = KernelCase(attention(text), "blocked", dtype, layout, length=LONG if dtype is torch.float64 else 7)
        assert BLOCKED.way(case.request()).native  # type: ignore[attr-defined]
        found = list(exact(case))
        if layout in ("padded", "packed"):
            found += padding_is_inert(case)
        if layout == "packed" and dtype is torch.float64:
            found += documents_are_isolated(case)
        assert [(layout, dtype, str(finding)) for finding in found if finding.broken] == []


def test_factors_fold_into_queries_until_the_first_step() -> None:
    spec = attention("heads=2, mask=causal, scores=temperature + scale(3.0) + soft_cap(2.0) + length_temperature(4)")
    dims = sizes(spec)
    params, (q, k, v) = parameters(spec, dims), operands(dims, 9)
    call = Call(spec, dims, params, q, k, v, Layout.plain(9))
    made = lowered(call, tile_table(call.layout, spec.mask))
    assert made.scale == pytest.approx(3.0 / 2)
    assert [type(step) for step in made.steps] == [SoftCap, MultiplyByQuery]
    torch.testing.assert_close(made.q, q * (-params["scores"][0]["log_t"]).exp()[:, None, None])
    factor = made.steps[1]
    assert isinstance(factor, MultiplyByQuery)
    torch.testing.assert_close(
        factor.factor[0, 0, :4], torch.tensor([1.0, 2.0, 3.0, 4.0]).double().log() / 1.3862943611198906
    )


def test_tables_by_hand() -> None:
    spec = attention("heads=2, mask=causal & window(3), position=alibi, scores=adaptive_weight(distance, length=2)")
    dims = sizes(spec)
    q, k, v = operands(dims, 70)
    log_a = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    params = {"scores": [{"log_a": log_a}]}
    call = Call(spec, dims, params, q, k, v, Layout.plain(70))
    table = tile_table(call.layout, spec.mask)
    bias, weight = lowered(call, table).steps
    assert isinstance(bias, AddByDistance)
    assert isinstance(weight, LogAddExpByDistance)
    assert bias.table[:, [-bias.first, 3 - bias.first, -2 - bias.first]].tolist() == [
        [0, -3 / 16, -2 / 16],
        [0, -3 / 256, -2 / 256],
    ]
    assert weight.first == table.first
    assert weight.table[:, [-weight.first, 1 - weight.first, 2 - weight.first]].tolist() == [[1, 2, 2], [3, 4, 4]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("heads=2, similarity=gaussian", "similarity=gaussian is not an inner product"),
        ("heads=2, position=shaw(3)", "position=shaw makes scores of the query itself and its distance"),
        ("heads=2, scores=learned_bias(4, position)", "scores=learned_bias has none of the forms"),
        ("heads=2, mask=~causal, scores=adaptive_span(4)", "scores=adaptive_span hides keys"),
        ("heads=2, normalizer=entmax15", "normalizer=entmax15 needs whole rows"),
        ("heads=2, head_mix=talking_heads", "head_mix=talking_heads needs"),
        ("heads=2, mask=causal, selector=top_k_blocks(4, 2)", "selector=top_k_blocks needs"),
    ],
)
def test_what_the_core_cannot_do_is_told_by_the_plan(text: str, why: str) -> None:
    spec = attention(text)
    assert (obstacle(spec, sizes(spec)) or "").startswith(why)
    told = plan(Request(spec, sizes(spec), 2, 64, 64), "blocked").explain()
    assert f"kernel     blocked (Python tiles: {why}" in told


def test_statistics_come_from_the_core_where_nothing_else_is_asked() -> None:
    spec = attention("heads=2, mask=causal, normalizer=learned_sink")
    dims = sizes(spec)
    params = {"normalizer": [{"sink": torch.tensor([0.5, -1.0], dtype=torch.float64)}]}
    q, k, v = (tensor.detach() for tensor in operands(dims, 70))
    wanted = frozenset({"output", "lse", "column_mass", "entropy", "top_k"})
    call = Call(spec, dims, params, q, k, v, Layout.plain(70), wanted=wanted, top=3)
    mine, right = BLOCKED.run(call), KERNELS["reference"].run(call)
    for name in ("lse", "column_mass", "entropy"):
        torch.testing.assert_close(mine.extra[name], right.extra[name])
    torch.testing.assert_close(mine.extra["top_k"][0], right.extra["top_k"][0])
    request = Request(spec, dims, 2, 70, 70, wanted=wanted)
    assert Blocked().way(request).native
    assert (
        "statistics with gradients" in Blocked().way(Request(spec, dims, 2, 70, 70, needs_grad=True, wanted=wanted)).why
    )


def test_without_a_core_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from attentune.kernels import Reason

    monkeypatch.setattr(native, "available", lambda: Reason("native", "no C++ compiler was found"))
    spec = attention("heads=2, mask=causal")
    told = plan(Request(spec, sizes(spec), 2, 64, 64), "blocked").explain()
    assert "kernel     blocked (Python tiles: no C++ compiler was found)" in told
