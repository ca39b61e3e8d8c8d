"""One contract for every kernel: outputs and gradients against the float64 reference, on every layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attentune.errors import KernelError
from attentune.kernels import KERNELS, Call, Layout, LayoutKind, Request, plan
from attentune.mechanisms import attention
from attentune.spec.attention import AttentionSpec
from attentune.spec.positions import Positions
from kernels.attending import SlotTensors, operands, parameters, sizes

LENGTH = 7  # odd, and no multiple of anything that a kernel tiles by
CAUSAL = "heads=2, mask=causal"
REDUCIBLE = [  # what PyTorch's fused kernel can compute, gradients included
    "heads=2",
    CAUSAL,
    "heads=4/2, mask=window(3)",
    "heads=multi_query(3), mask=causal",
    "heads=2, similarity=scaled_dot(scale=0.7), mask=causal & (window(2) | sink(1))",
    "heads=2, mask=causal | prefix(3)",
    "heads=2, mask=~causal",
    "heads=3/1, mask=causal, position=alibi",
    "heads=2, mask=causal, scores=temperature",
    "heads=2, mask=window(4), scores=temperature(value=0.5, learned=false)",
    "heads=2, mask=causal, normalizer=softmax_off_by_one",
    "heads=2, mask=~causal, position=alibi, normalizer=softmax_off_by_one",
]
IRREDUCIBLE = [
    "heads=latent(2, 3, rotary=2), mask=causal",
    "heads=2, mask=causal, similarity=additive",
    "heads=2, mask=causal, position=t5(buckets=6, max_distance=9)",
    "heads=2, mask=causal, scores=soft_cap(1.5)",
    "heads=2, mask=causal, position=alibi, scores=temperature + soft_cap(2.0)",
    "heads=2, mask=window(3), normalizer=entmax15",
    "heads=2, mask=causal, head_mix=talking_heads",
    "heads=4/2, mask=causal, selector=top_k_blocks(2, 2)",
]
LAYOUTS = ["plain", "padded", "packed", "cached"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
VALID = torch.tensor([[False, False, True, True, False, True, True], [True, True, True, True, True, False, False]])
DOCUMENTS = torch.tensor([[4, 4, 4, 2, 2, 2, 2], [1, 0, 0, 0, -1, -1, -1]])
NEWEST = 3  # queries of the cached layout


def make_layout(name: str) -> Layout:
    if name == "padded":
        return Layout.padded(VALID)
    if name == "packed":
        return Layout.packed(DOCUMENTS)
    if name == "cached":
        return Layout(LayoutKind.CACHED, Positions.arange(NEWEST, start=LENGTH - NEWEST), Positions.arange(LENGTH))
    return Layout.plain(LENGTH)


def make_request(spec: AttentionSpec, layout: str, dtype: torch.dtype, *, needs_grad: bool = True) -> Request:
    queries = NEWEST if layout == "cached" else LENGTH
    return Request(spec, sizes(spec), 2, queries, LENGTH, make_layout(layout).kind, dtype=dtype, needs_grad=needs_grad)


def inputs(spec: AttentionSpec, layout: str) -> tuple[list[Tensor], SlotTensors]:
    dims = sizes(spec)
    made = operands(dims, NEWEST if layout == "cached" else LENGTH, LENGTH, dtype=torch.bfloat16)
    rounded = parameters(spec, dims, torch.bfloat16)  # numbers that every dtype can hold
    return [tensor.detach() for tensor in made], rounded


def compute(
    kernel: str, spec: AttentionSpec, layout: Layout, qkv: list[Tensor], params: SlotTensors, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The output and every gradient, in float64."""
    q, k, v = leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in qkv]
    own = {
        slot: [{name: t.detach().to(dtype).requires_grad_() for name, t in tensors.items()} for tensors in held]
        for slot, held in params.items()
    }
    output = KERNELS[kernel].run(Call(spec, sizes(spec), own, q, k, v, layout)).output
    named = dict(zip("qkv", leaves, strict=True))
    for slot in ("similarity", "position", "scores", "normalizer", "head_mix", "selector"):
        named |= {f"{slot}.{name}": t for tensors in own.get(slot, []) for name, t in tensors.items()}
    mixture = torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)
    gradients = torch.autograd.grad((output * mixture).sum(), list(named.values()), allow_unused=False)
    found = {"output": output, **dict(zip(named, gradients, strict=True))}
    return {name: tensor.detach().double() for name, tensor in found.items()}


def assert_as_exact(
    found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Error at most 2x (bf16 gradients 4x) that of the reference in the same dtype, + 4 eps of the largest number.

    The gradient of a learned scalar is a sum over all scores, of which much cancels: what rounds is its terms.
    """
    assert found.keys() == exact.keys()
    largest = max(tensor.abs().max() for tensor in exact.values())
    for name, right in exact.items():
        times = 4 if dtype is torch.bfloat16 and name != "output" else 2
        allowed = times * (plain[name] - right).abs().max() + 4 * torch.finfo(dtype).eps * (
            largest if "." in name else right.abs().max()
        )
        error = (found[name] - right).abs().max()
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text", REDUCIBLE)
def test_sdpa_equals_the_reference(text: str, layout: str, dtype: torch.dtype) -> None:
    spec = attention(text)
    assert KERNELS["sdpa"].supports(make_request(spec, layout, dtype)) == ()
    qkv, params = inputs(spec, layout)
    exact = compute("reference", spec, make_layout(layout), qkv, params, torch.float64)
    plain = compute("reference", spec, make_layout(layout), qkv, params, dtype)
    found = compute("sdpa", spec, make_layout(layout), qkv, params, dtype)
    assert_as_exact(found, plain, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("text", [*REDUCIBLE, *IRREDUCIBLE])
def test_the_reference_is_as_exact_as_its_dtype(text: str, layout: str, dtype: torch.dtype) -> None:
    spec = attention(text)
    qkv, params = inputs(spec, layout)
    exact = compute("reference", spec, make_layout(layout), qkv, params, torch.float64)
    found = compute("reference", spec, make_layout(layout), qkv, params, dtype)
    factor = 4 if dtype is torch.bfloat16 else 64  # inside it is float32: bf16 rounds the result alone
    scale = max(1.0, max(float(t.abs().max()) for t in exact.values()))
    for name, right in exact.items():
        assert (found[name] - right).abs().max() <= factor * torch.finfo(dtype).eps * scale, name


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("text", [*REDUCIBLE, *IRREDUCIBLE])
def test_poisoned_padding_changes_nothing(text: str, layout: str, kernel: str) -> None:
    spec = attention(text)
    if kernel == "sdpa" and text in IRREDUCIBLE:
        assert KERNELS["sdpa"].supports(make_request(spec, layout, torch.float32))
        return
    there = make_layout(layout).key.valid
    assert there is not None
    qkv, params = inputs(spec, layout)
    poisoned = [tensor.masked_fill(~there[:, None, :, None], float("nan")) for tensor in qkv]
    clean = compute(kernel, spec, make_layout(layout), qkv, params, torch.float64)
    found = compute(kernel, spec, make_layout(layout), poisoned, params, torch.float64)
    for name, right in clean.items():
        assert torch.equal(found[name], right), name
    for name in ("output", "q", "k", "v"):
        assert (found[name].movedim(2, 1)[~there] == 0).all(), f"{name} of padding is not zero"


@pytest.mark.parametrize("text", [*REDUCIBLE, *IRREDUCIBLE])
def test_documents_of_a_packed_row_are_isolated(text: str) -> None:
    spec = attention(text)
    kernels = ["reference"] if text in IRREDUCIBLE else ["reference", "sdpa"]
    qkv, params = inputs(spec, "packed")
    for kernel in kernels:
        packed = compute(kernel, spec, make_layout("packed"), qkv, params, torch.float64)["output"]
        for row, begin, end in ((0, 0, 3), (0, 3, 7), (1, 0, 1), (1, 1, 4)):
            piece = [tensor[row : row + 1, :, begin:end] for tensor in qkv]
            alone = compute("reference", spec, Layout.plain(end - begin), piece, params, torch.float64)["output"]
            assert torch.allclose(packed[row : row + 1, :, begin:end], alone, atol=1e-12), (kernel, row, begin)


@pytest.mark.parametrize("text", [text for text in [*REDUCIBLE, *IRREDUCIBLE] if attention(text).mask.lookahead == 0])
def test_nothing_flows_from_the_future(text: str) -> None:
    spec = attention(text)
    qkv, params = inputs(spec, "plain")
    for kernel in ["reference"] if text in IRREDUCIBLE else ["reference", "sdpa"]:
        before = compute(kernel, spec, Layout.plain(LENGTH), qkv, params, torch.float64)["output"]
        for t in range(1, LENGTH):
            changed = [tensor.clone() for tensor in qkv]
            for tensor in changed:
                tensor[:, :, t:] += 3.0
            after = compute(kernel, spec, Layout.plain(LENGTH), changed, params, torch.float64)["output"]
            assert torch.allclose(before[:, :, :t], after[:, :, :t], atol=1e-13), (kernel, t)
            assert not torch.allclose(before[:, :, t], after[:, :, t]), (kernel, t)


@pytest.mark.parametrize("text", ["heads=2, mask=~causal", "heads=3/1, mask=~causal, position=alibi"])
@pytest.mark.parametrize("normalizer", ["softmax", "softmax_off_by_one", "entmax15"])
def test_a_query_that_sees_nothing_gives_zero_and_no_gradient(text: str, normalizer: str) -> None:
    spec = attention(f"{text}, normalizer={normalizer}")
    qkv, params = inputs(spec, "plain")
    for kernel in ["reference"] if normalizer == "entmax15" else ["reference", "sdpa"]:
        found = compute(kernel, spec, Layout.plain(LENGTH), qkv, params, torch.float32)
        assert (found["output"][:, :, -1] == 0).all()
        assert (found["q"][:, :, -1] == 0).all()
        assert all(torch.isfinite(tensor).all() for tensor in found.values())
        assert (found["output"][:, :, :-1] != 0).any()


@pytest.mark.parametrize("text", IRREDUCIBLE)
def test_what_sdpa_cannot_compute_is_refused_by_name_and_planned_elsewhere(text: str) -> None:
    request = make_request(attention(text), "plain", torch.float32)
    with pytest.raises(KernelError, match="kernel sdpa cannot compute this attention: ") as refusal:
        plan(request, "sdpa")
    for reason in KERNELS["sdpa"].supports(request):
        assert str(reason) in str(refusal.value)
    assert plan(request).choice == "reference"
