"""Errors that well-known libraries make in silence, each with a test that this one does not."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attentune.errors import KernelError, SpecError
from attentune.kernels import KERNELS, Call, Layout, LayoutKind, Request, plan
from attentune.kernels.flex import LIMITS
from attentune.layers.attention import Attention
from attentune.layers.state import KeyValueCache, LayerState
from attentune.mechanisms import attention, registry
from attentune.spec.positions import Positions
from attentune.spec.slots import Mixer
from attentune.verification.examples import examples, sizes
from attentune.verification.kernel_checks import KernelCase, padding_is_inert, unseen_is_zero
from attentune.verification.mixer_checks import MixerCase, documents_are_isolated
from attentune.verification.mixer_checks import padding_is_inert as mixers_ignore_padding
from kernels.attending import attend, operands, parameters, weights

ABLE = ("reference", "sdpa")
MIXERS = [value for mechanism in registry if issubclass(mechanism, Mixer) for value in examples(mechanism)]


@pytest.mark.parametrize("kernel", ABLE)
@pytest.mark.parametrize("text", ["heads=2, mask=causal", "heads=2, mask=window(2)", "heads=2, mask=causal & sink(2)"])
def test_every_kernel_applies_the_mask(text: str, kernel: str) -> None:
    """A custom attention registered without its mask function receives no mask (transformers #45811, #46132)."""
    q, k, v = operands(sizes(attention(text)), 6)
    masked = attend(text, q, k, v, kernel=kernel).output
    seen = Layout.plain(6).visible(attention(text).mask)
    right = scaled_dot_product_attention(q, k, v, attn_mask=seen)
    assert torch.allclose(masked, right, atol=1e-12)
    assert not torch.allclose(masked, attend("heads=2", q, k, v, kernel=kernel).output, atol=1e-2)


@pytest.mark.parametrize("kernel", ABLE)
def test_a_boolean_mask_hides_and_is_not_added_as_a_number(kernel: str) -> None:
    """A boolean 4-D mask added as 0/1 leaves weight on hidden keys."""
    q, k, v = operands(sizes(attention("heads=2, mask=causal")), 5)
    changed = v.detach().clone()
    changed[:, :, 3:] = 1e6
    before = attend("heads=2, mask=causal", q, k, v, kernel=kernel).output
    after = attend("heads=2, mask=causal", q, k, changed, kernel=kernel).output
    assert torch.equal(before[:, :, :3], after[:, :, :3])


@pytest.mark.parametrize("kernel", ABLE)
def test_a_bias_keeps_its_head(kernel: str) -> None:
    """A per-head float mask that loses its head index gives every head the same bias."""
    text = "heads=4, mask=causal, position=alibi"
    q, k, v = operands(sizes(attention(text)), 6)
    same = q[:, :1].expand_as(q).contiguous(), k[:, :1].expand_as(k).contiguous(), v[:, :1].expand_as(v).contiguous()
    output = attend(text, *same, kernel=kernel).output
    for head in range(1, 4):
        assert not torch.allclose(output[:, 0], output[:, head], atol=1e-3)
    swapped = attend(text, *(tensor.flip(1) for tensor in (q, k, v)), kernel=kernel).output.flip(1)
    assert not torch.allclose(swapped, attend(text, q, k, v, kernel=kernel).output, atol=1e-3)


@pytest.mark.parametrize("option", ["dropout", "wanted", "normalizer", "scores", "selector"])
def test_what_a_kernel_cannot_honour_is_refused_and_not_ignored(option: str) -> None:
    """A flash flag that ignores a custom function or a normaliser; keywords that swallow a mask or dropout."""
    text = {
        "normalizer": "heads=2, mask=causal, normalizer=entmax15",
        "scores": "heads=2, mask=causal, scores=soft_cap(3.0)",
        "selector": "heads=2, mask=causal, selector=top_k_blocks(2, 2)",
    }.get(option, "heads=2, mask=causal")
    spec = attention(text)
    request = Request(
        spec,
        sizes(spec),
        1,
        8,
        8,
        dropout=0.5 if option == "dropout" else 0.0,
        wanted=frozenset({"output", "weights"} if option == "wanted" else {"output"}),
    )
    with pytest.raises(KernelError, match=option):
        plan(request, "sdpa")
    assert plan(request).choice != "sdpa"


def test_no_kernel_swallows_keywords() -> None:
    for kernel in KERNELS.values():
        kinds = {parameter.kind for parameter in inspect.signature(kernel.run).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds
    spec = attention("heads=2")
    given = (spec, sizes(spec), {}, *operands(sizes(spec), 3), Layout.plain(3))
    assert Call(*given).spec is spec
    with pytest.raises(TypeError, match="attn_mask"):
        Call(*given, attn_mask=None)  # type: ignore[call-arg]
    with pytest.raises(SpecError, match=r"AttentionSpec\.causal is unknown"):
        attention("heads=2").replace(causal=True)


@pytest.mark.parametrize("kernel", ABLE)
def test_the_layout_is_anded_with_the_mask_and_replaces_none(kernel: str) -> None:
    """A training window that overwrites the caller's mask (litgpt)."""
    spec = attention("heads=2, mask=window(3)")
    q, k, v = operands(sizes(spec), 7)
    layout = Layout.packed(torch.tensor([[0, 0, 0, 0, 1, 1, 1]] * 2))
    seen = layout.visible(attention("heads=1").mask) & Layout.plain(7).visible(spec.mask)
    right = scaled_dot_product_attention(q, k, v, attn_mask=seen)
    assert torch.allclose(attend(spec, q, k, v, layout=layout, kernel=kernel).output, right, atol=1e-12)


@pytest.mark.parametrize("kernel", ABLE)
def test_grouped_heads_stand_in_the_order_of_torch(kernel: str) -> None:
    """Groups tiled in another order make imported weights wrong (x-transformers)."""
    q, k, v = operands(sizes(attention("heads=6/2, mask=causal")), 5)
    right = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(attend("heads=6/2, mask=causal", q, k, v, kernel=kernel).output, right, atol=1e-12)
    tiled = scaled_dot_product_attention(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1), is_causal=True)
    assert not torch.allclose(right, tiled, atol=1e-2)


@pytest.mark.parametrize("kernel", ABLE)
@pytest.mark.parametrize("newest", [1, 3])
def test_a_cache_is_aligned_at_its_end(kernel: str, newest: int) -> None:
    """Top-left causal alignment lets the newest query see the oldest key alone (pytorch #103082)."""
    spec = attention("heads=2, mask=causal")
    q, k, v = operands(sizes(spec), 6)
    layout = Layout(LayoutKind.CACHED, Positions.arange(newest, start=6 - newest), Positions.arange(6))
    whole = attend(spec, q, k, v, kernel=kernel).output[:, :, -newest:]
    found = attend(spec, q[:, :, -newest:], k, v, layout=layout, kernel=kernel).output
    assert torch.allclose(found, whole, atol=1e-12)
    wrong = scaled_dot_product_attention(q[:, :, -newest:], k, v, is_causal=True)
    assert not torch.allclose(found, wrong, atol=1e-2)


@pytest.mark.parametrize("kernel", ABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_query_that_sees_nothing_is_zero_with_gradient_zero(kernel: str, dtype: torch.dtype) -> None:
    """NaN rows and gradients from fully masked queries (pytorch #103749, #41508)."""
    case = KernelCase(attention("heads=4/2, mask=causal"), kernel, dtype, "plain")
    findings = list(unseen_is_zero(case))
    assert findings
    assert [str(finding) for finding in findings if finding.broken] == []
    blind = KernelCase(attention("heads=2, mask=~full"), kernel, dtype, "plain").compute()
    assert all((tensor == 0).all() for tensor in blind.values())


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("mixer", MIXERS, ids=repr)
def test_padding_reaches_neither_state_nor_normaliser_nor_decay(mixer: Mixer, layout: str) -> None:
    """Padding masked in the values, but not in normaliser or decay (flash-linear-attention #1263, #1272)."""
    for form in mixer.forms:
        case = MixerCase(mixer, form, torch.float64, layout)
        findings = [*mixers_ignore_padding(case), *(documents_are_isolated(case) if layout == "packed" else ())]
        assert findings
        assert [str(finding) for finding in findings if finding.broken] == []


@pytest.mark.parametrize("kernel", ABLE)
def test_unfilled_slots_of_a_cache_are_never_seen(kernel: str) -> None:
    """Unfilled cache slots attended (gpt-fast #233)."""
    spec = attention("heads=2, mask=causal")
    module = Attention(spec, width=8).double()
    module.bind(kernel=kernel, dtype=torch.float64)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        whole = module(x, Layout.plain(5)).y
        state, given = LayerState(cache=KeyValueCache()), []
        for t in range(5):
            places = Positions.arange(1, start=t)
            layout = Layout(LayoutKind.CACHED, places, Positions.arange(t + 1))
            given.append(module(x[:, t : t + 1], layout, state=state).y)
            cache = state.cache
            assert cache is not None
            for buffer in cache.buffers.values():
                assert buffer.shape[2] > cache.length
                buffer[:, :, cache.length :] = float("nan")
    assert torch.allclose(torch.cat(given, 1), whole, atol=1e-12)


def test_flex_past_its_recompile_limit_is_an_error() -> None:
    """Past the limit, FlexAttention runs unfused and stores every score (pytorch #141486)."""
    assert LIMITS["fail_on_recompile_limit_hit"] is True
    with torch._dynamo.config.patch(LIMITS):
        assert torch._dynamo.config.fail_on_recompile_limit_hit


def test_flex_on_a_cpu_refuses_gradients() -> None:
    """FlexAttention on a CPU has no backward pass (pytorch #148752, #169224)."""
    spec = attention("heads=2, mask=causal")
    request = Request(spec, sizes(spec), 1, 8, 8, needs_grad=True)
    with pytest.raises(KernelError, match="gradients: FlexAttention has no backward pass on a CPU"):
        plan(request, "flex")
    module = Attention(spec, width=8)
    module.bind(kernel="flex")
    chosen = {held.choice for (_, needs_grad, _, _), held in module.plans.items() if needs_grad}
    assert "flex" not in chosen


@pytest.mark.parametrize("kernel", ABLE)
def test_padding_is_no_key(kernel: str) -> None:
    case = KernelCase(attention("heads=4/2, mask=causal"), kernel, torch.float64, "padded")
    assert [str(finding) for finding in padding_is_inert(case) if finding.broken] == []


def test_weights_are_those_of_the_output() -> None:
    """Statistics taken beside a fused kernel must be those of what it computed."""
    spec = attention("heads=4/2, mask=window(3), position=alibi")
    q, k, v = operands(sizes(spec), 6)
    p = weights(spec, q, k, v)
    fused = attend(spec, q, k, v, kernel="sdpa", params=parameters(spec, sizes(spec))).output
    assert torch.allclose(p @ v.repeat_interleave(2, 1), fused, atol=1e-12)
