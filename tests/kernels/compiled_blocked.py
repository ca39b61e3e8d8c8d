"""The kernel `blocked` inside a compiled graph that nothing breaks: outputs and gradients are those without compiling.

Run by test_opaque.py, in a process without run-time checks of shapes.
"""

from __future__ import annotations

import pytest
import torch

from attentune.kernels import KERNELS, Call, Layout, Request, native, opaque
from attentune.kernels.native import library, operators
from attentune.kernels.opaque import attend
from attentune.mechanisms import attention
from kernels.attending import operands, parameters, sizes

TEXTS = [
    "heads=4/2, mask=causal & window(3), position=alibi, scores=temperature + soft_cap(2.0)",
    "heads=2, mask=causal, normalizer=entmax15, position=t5(buckets=6, max_distance=9), head_mix=talking_heads",
]
INDEX = torch.arange(80)
LAYOUTS = {
    "plain": Layout.plain(80),
    "packed": Layout.packed(torch.stack([INDEX // 30, INDEX // 11])),
    "padded": Layout.padded(torch.stack([INDEX < 70, INDEX > 9])),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fullgraph(text: str, layout: str) -> None:
    torch.compiler.reset()
    spec = attention(text)
    dims = sizes(spec)
    KERNELS["blocked"].way(Request(spec, dims, 2, 80, 80))  # type: ignore[attr-defined]  # as binding does
    params, (q, k, v) = parameters(spec, dims), operands(dims, 80)
    wanted = frozenset({"output", "lse", "column_mass", "top_k"})

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
        result = KERNELS["blocked"].run(Call(spec, dims, params, q, k, v, LAYOUTS[layout], wanted=wanted, top=3))
        return [result.output, result.extra["column_mass"], result.extra["top_k"][0]]  # type: ignore[list-item]

    leaves = [q, k, v]
    for slot in ("position", "scores", "head_mix"):
        leaves += [tensor for one in params.get(slot, []) for tensor in one.values()]
    found = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        outputs = function(q, k, v)
        gradients = torch.autograd.grad(sum((one**2).sum() for one in outputs), leaves)
        found.append([*outputs, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_is_the_same_in_both_passes() -> None:
    torch.compiler.reset()
    spec = attention("heads=2, mask=causal")
    dims = sizes(spec)
    KERNELS["blocked"].way(Request(spec, dims, 2, 40, 40))  # type: ignore[attr-defined]
    q, k, v = operands(dims, 40)

    def run(v: torch.Tensor) -> torch.Tensor:
        return KERNELS["blocked"].run(Call(spec, dims, {}, q, k, v, Layout.plain(40), dropout=0.4)).output

    output = torch.compile(run, fullgraph=True, backend="aot_eager")(v)
    (gradient,) = torch.autograd.grad(output.sum(), v)
    torch.testing.assert_close((gradient * v).sum(), output.sum())
    assert not torch.allclose(output, run(v))


@pytest.mark.parametrize("text", ["heads=2, mask=causal", "heads=2, mask=causal, normalizer=relu2"])
def test_the_backward_pass_does_not_compute_the_output_again(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    if native.available() is not None:
        pytest.skip(str(native.available()))
    spec = attention(text)
    dims = sizes(spec)
    KERNELS["blocked"].way(Request(spec, dims, 2, 40, 40))  # type: ignore[attr-defined]
    q, k, v = operands(dims, 40)
    called: list[str] = []
    call = operators.call

    def noted(function: library.Function, problem: library.Problem) -> None:
        called.append(function)
        call(function, problem)

    monkeypatch.setattr(operators, "call", noted)

    def run(q: torch.Tensor) -> torch.Tensor:
        return KERNELS["blocked"].run(Call(spec, dims, {"normalizer": [{}]}, q, k, v, Layout.plain(40))).output

    torch.compile(run, fullgraph=True, backend="aot_eager")(q).sum().backward()
    assert called == ["forward", "backward"]


def test_rows_of_the_same_positions_share_what_is_known_of_them() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    first, again = (opaque._recent(Layout.packed(documents)) for _ in range(2))
    assert again is first
    changed = Layout.packed(torch.tensor([[0, 0, 0, 1, 1]]))
    other = opaque._recent(changed)
    assert other is not first
    changed.query.position.zero_()  # as a compiler may, that uses the memory for something else
    assert torch.equal(other.query.position, Layout.packed(torch.tensor([[0, 0, 0, 1, 1]])).query.position)


def test_opcheck() -> None:
    spec = attention("heads=2, mask=causal")
    dims = sizes(spec)
    KERNELS["blocked"].way(Request(spec, dims, 2, 9, 9))  # type: ignore[attr-defined]
    q, k, v = operands(dims, 9)
    places = [Layout.plain(9).query.index, Layout.plain(9).query.position] * 2
    sizes_ = " ".join(str(int(getattr(dims, name))) for name in dims.__dataclass_fields__)
    told = "query.index query.position key.index key.position"
    frame = f"blocked\n{spec.text}\nplain\nlse output\n{sizes_}\n\n\n{told}"
    torch.library.opcheck(attend, (q, k, v, [], places, torch.tensor(0), frame, 8, 0.0))
