from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attentune.kernels import KERNELS, Call, Layout, query_tiles
from attentune.kernels.tile_table import tile_table
from attentune.mechanisms import attention
from kernels.attending import operands, parameters, sizes

EVERYTHING = frozenset({"output", "lse", "column_mass", "entropy", "top_k"})
TEXTS = [
    "heads=4/2, mask=causal",
    "heads=4/2, mask=causal & (window(40) | sink(3)), position=t5(6, 9), scores=soft_cap(2.0), normalizer=learned_sink",
    "heads=2, mask=causal & window(70), normalizer=entmax15, position=shaw(5), head_mix=talking_heads",
    "heads=4/2, mask=causal, selector=top_k_blocks(4, 2)",
    "heads=2, mask=~causal, similarity=gaussian, normalizer=sigmoid(learned=true)",
    "heads=2, position=transformer_xl_relative, normalizer=relu2",
    "heads=2, similarity=bilinear, normalizer=top_k(7), scores=adaptive_weight(distance, length=20)",
]
LENGTH = 150
INDEX = torch.arange(LENGTH)
LAYOUTS = {
    "plain": Layout.plain(LENGTH),
    "packed": Layout.packed(torch.stack([INDEX // 50, INDEX // 37])),
    "padded": Layout.padded(torch.stack([INDEX < 120, INDEX >= 20])),
}


def found(call: Call, kernel: str) -> list[Tensor]:
    """Every output and every gradient of all of them."""
    result = query_tiles.run(call) if kernel == "tiles" else KERNELS[kernel].run(call)
    weights = result.extra["top_k"][0]
    lse = result.extra["lse"]
    assert isinstance(lse, Tensor)
    lse = lse.masked_fill(lse.isinf(), 0.0)
    others = [result.extra[name] for name in ("column_mass", "entropy")]
    outputs = [result.output, lse, weights, *others]
    loss = sum((one * torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view_as(one)).sum() for one in outputs)
    own = {slot: held for slot, held in call.params.items() if slot in query_tiles.INSIDE}
    leaves = [call.q, call.k, call.v, *(tensor for held in own.values() for one in held for tensor in one.values())]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return outputs + [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("scores", [1 << 10, 1 << 18])
def test_tiles_of_any_size_give_the_reference(text: str, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_tiles, "SCORES", scores)
    spec = attention(text)
    dims = sizes(spec)
    torch.manual_seed(1)
    params, (q, k, v) = parameters(spec, dims), operands(dims, LENGTH)
    for layout in LAYOUTS.values():
        call = Call(spec, dims, params, q, k, v, layout, wanted=EVERYTHING, top=5)
        for mine, right in zip(found(call, "tiles"), found(call, "reference"), strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9)


def test_keys_far_apart_are_gathered() -> None:
    spec = attention("heads=2, mask=causal & (window(64) | sink(2))")
    dims = sizes(spec)
    q, k, v = operands(dims, 900, batch=1)
    call = Call(spec, dims, {}, q, k, v, Layout.plain(900), wanted=EVERYTHING, top=3)
    tiles = list(query_tiles.query_tiles(call, tile_table(call.layout, spec.mask)))
    assert isinstance(tiles[-1].keys, Tensor)
    assert set(tiles[-1].keys.tolist()) >= {0, 1, *range(832, 900)}
    assert max(query_tiles_keys(tile) for tile in tiles) <= 6 * 64
    right = KERNELS["reference"].run(call).extra["top_k"][1]
    assert torch.equal(query_tiles.run(call).extra["top_k"][1][:, :, 3:], right[:, :, 3:])
    for mine, exact in zip(found(call, "tiles"), found(call, "reference"), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


def query_tiles_keys(tile: query_tiles.QueryTile) -> int:
    return tile.keys.stop - tile.keys.start if isinstance(tile.keys, slice) else len(tile.keys)


def test_the_same_dropout_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_tiles, "SCORES", 1 << 10)
    spec = attention("heads=2, mask=causal")
    dims = sizes(spec)
    q, k, v = operands(dims, 90)
    call = Call(spec, dims, {}, q, k, v, Layout.plain(90), dropout=0.4)

    def run(values: Tensor) -> Tensor:
        torch.manual_seed(3)
        return query_tiles.run(Call(spec, dims, {}, q, k, values, call.layout, dropout=0.4)).output

    torch.manual_seed(3)
    output = query_tiles.run(call).output
    assert torch.equal(output, run(v))
    torch.manual_seed(4)
    assert not torch.equal(output, query_tiles.run(call).output)
    # The output is linear in v: where both passes drop the same weights, its gradient tells what it is.
    (gradient,) = torch.autograd.grad(output.sum(), v)
    torch.testing.assert_close((gradient * v).sum(), output.sum(), rtol=1e-10, atol=1e-10)
    assert abs(float(run(torch.ones_like(v)).detach().mean()) - 1) < 0.1


def test_only_inputs_are_kept_for_the_backward_pass() -> None:
    spec = attention("heads=2, mask=causal")
    dims = sizes(spec)
    q, k, v = operands(dims, 300)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        query_tiles.run(Call(spec, dims, {}, q, k, v, Layout.plain(300)))
    assert max(kept) == q.numel()


@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (0, 3), (1, 1), (2, 0)])
def test_lengths_of_none_and_one(queries: int, keys: int) -> None:
    spec = attention("heads=2")
    dims = sizes(spec)
    q, k, v = operands(dims, queries, keys)
    layout = Layout.cross(Layout.plain(queries).query, Layout.plain(keys).key)
    call = Call(spec, dims, {}, q, k, v, layout)
    output = KERNELS["blocked"].run(call).output
    torch.testing.assert_close(output, KERNELS["reference"].run(call).output)
    torch.autograd.grad(output.sum(), [q, k, v], allow_unused=True)


def test_expanded_and_strided_operands() -> None:
    spec = attention("heads=2, mask=causal & window(5)")
    dims = sizes(spec)
    x = torch.randn(2, 40, 2, 12, dtype=torch.float64)
    q, k, v = (part.transpose(1, 2) for part in x.split(4, -1))
    layout = Layout.plain(40)
    straight = KERNELS["blocked"].run(Call(spec, dims, {}, *(t.contiguous() for t in (q, k, v)), layout)).output
    assert torch.equal(KERNELS["blocked"].run(Call(spec, dims, {}, q, k, v, layout)).output, straight)
    one = k[:, :1].expand(-1, 2, -1, -1)
    expanded = KERNELS["blocked"].run(Call(spec, dims, {}, q, one, v, layout)).output
    assert torch.equal(expanded, KERNELS["blocked"].run(Call(spec, dims, {}, q, one.contiguous(), v, layout)).output)


def test_numbers_that_are_not_finite_stay_with_those_who_see_them() -> None:
    spec = attention("heads=2, mask=causal & window(5)")
    dims = sizes(spec)
    q, k, v = (tensor.detach() for tensor in operands(dims, 100))
    k[:, :, 50] = float("nan")
    v[:, :, 99] = float("inf")
    output = KERNELS["blocked"].run(Call(spec, dims, {}, q, k, v.masked_fill(v.isinf(), 0.0), Layout.plain(100))).output
    assert output[:, :, 50:55].isnan().all()
    assert output[:, :, :50].isfinite().all()
    assert output[:, :, 55:].isfinite().all()
    output = KERNELS["blocked"].run(Call(spec, dims, {}, q, k, v, Layout.plain(100))).output
    assert not output[:, :, 99].isfinite().any()
