"""What the tests of mixers share: sizes, random parameters and states, and running a mixer in one of its forms."""

from __future__ import annotations

import torch

from attentune.spec.mechanism import Dims
from attentune.spec.slots import Mixer

Tensors = dict[str, torch.Tensor]


def dims(width: int, *, bias: bool = False) -> Dims:
    return Dims(
        width=width, heads=1, groups=1, head_width=width, value_width=width, source_width=width, depth=2, bias=bias
    )


def random_parameters(mixer: Mixer, width: int, *, bias: bool = True, dtype: torch.dtype = torch.float64) -> Tensors:
    """Parameters large enough that every part of the mixer matters."""
    made: Tensors = {}
    for name, declared in mixer.parameters(dims(width, bias=bias)).items():
        drawn = 0.6 * torch.randn(declared.shape, dtype=torch.float64)
        made[name] = drawn.to(dtype).requires_grad_()
    return made


def begin(mixer: Mixer, width: int, rows: int, *, dtype: torch.dtype = torch.float64) -> Tensors:
    return mixer.init(dims(width), rows, torch.zeros((), dtype=dtype))


def after_some(mixer: Mixer, params: Tensors, width: int, rows: int) -> Tensors:
    """A state that has seen three tokens; its real numbers are leaves that want gradients."""
    seen = torch.randn(rows, 3, width, dtype=torch.float64)
    _, state = mixer.mix(params, seen, begin(mixer, width, rows), None, None)
    return {name: leaf(held) for name, held in state.items()}


def leaf(held: torch.Tensor) -> torch.Tensor:
    return held.detach().clone().requires_grad_(held.is_floating_point())


def gradients(
    mixer: Mixer,
    params: Tensors,
    x: torch.Tensor,
    state: Tensors,
    valid: torch.Tensor | None,
    starts: torch.Tensor | None,
    form: str,
) -> Tensors:
    """The output, the state after it, and the gradients of everything, of a loss that reads all of them."""
    x = leaf(x)
    leaves = {name: leaf(held) for name, held in params.items()}
    before = {name: leaf(held) for name, held in state.items()}
    y, after = mixer.mix(leaves, x, before, valid, starts, form)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    loss = (weights * y).sum() + sum((0.3 * held.square()).sum() for held in after.values() if held.requires_grad)
    wanted = {"x": x} | leaves | {f"before.{name}": held for name, held in before.items() if held.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    given = {
        f"gradient of {name}": torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(wanted.items(), found, strict=True)
    }
    return {"y": y, **{f"after.{name}": held for name, held in after.items()}, **given}


def assert_same(found: Tensors, expected: Tensors, tolerance: float = 1e-10) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        finite = value[value.isfinite()]
        size = max([1.0, *finite.abs().flatten().tolist()])
        assert torch.allclose(found[name], value, rtol=0, atol=tolerance * size), name
