"""A kernel as one operator, for `torch.compile`: what it decides by looking at numbers stays out of the graph.

The backward operator makes the same call, tells the kernel what it gave before, and differentiates it. Operators run
below autograd, where nothing is recorded; a thread of its own has no operator around it.
"""

# No `from __future__ import annotations`: torch.library reads the annotations of operators as types.
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from attentune.errors import KernelError
from attentune.kernels.kernel import Call, Kernel, Result
from attentune.kernels.layout import Layout, LayoutKind
from attentune.spec.attention import AttentionSpec
from attentune.spec.mechanism import Dims
from attentune.spec.positions import Positions

PLACES = ("index", "position", "document", "prefix", "valid")
RECENT = 4  # layouts that are kept
SIZES = tuple(field.name for field in fields(Dims))


_kernels: dict[str, Kernel] = {}
_specs: dict[str, AttentionSpec] = {}
_ambiguous: set[str] = set()


def announce(kernel: Kernel, spec: AttentionSpec) -> None:
    """Keep both under their names, by which the operator finds them; done when modules are bound, before tracing."""
    _kernels[kernel.name] = kernel
    if _specs.setdefault(spec.text, spec) != spec:
        _ambiguous.add(spec.text)


def run_opaquely(kernel: Kernel, call: Call, *, kept: frozenset[str] = frozenset()) -> Result:
    """`kernel.run(call)` as one operator. Its outputs, and those `kept`, save the backward pass from computing them."""
    wanted = sorted(call.wanted | (kept if torch.is_grad_enabled() else frozenset()))
    held = [(slot, place, one) for slot, values in call.params.items() for place, one in enumerate(values)]
    names = [f"{slot}.{place}.{name}" for slot, place, one in held for name in one]
    sides = (("query", call.layout.query), ("key", call.layout.key))
    told = [f"{side}.{name}" for side, one in sides for name in PLACES if getattr(one, name) is not None]
    lines = [
        kernel.name,
        call.spec.text,
        call.layout.kind.value,
        " ".join(wanted),
        " ".join([str(int(getattr(call.dims, name))) for name in SIZES]),
        " ".join([f"{slot}:{len(values)}" for slot, values in call.params.items()]),
        " ".join(names),
        " ".join(told),
    ]
    given = attend(
        call.q,
        call.k,
        call.v,
        [tensor for _, _, one in held for tensor in one.values()],
        [getattr(one, name) for _, one in sides for name in PLACES if getattr(one, name) is not None],
        torch.randint(1 << 62, ()),
        "\n".join(lines),
        call.top,
        call.dropout,
    )
    extra = _named(wanted, given[1:])
    return Result(given[0], {name: one for name, one in extra.items() if name in call.wanted})


def _named(wanted: Sequence[str], given: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    extra: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    place = 0
    for name in wanted:
        if name == "top_k":
            extra[name] = (given[place], given[place + 1])
            place += 2
        elif name != "output":
            extra[name] = given[place]
            place += 1
    return extra


@torch.library.custom_op("attentune::attend", mutates_args=())
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: Sequence[Tensor],
    places: Sequence[Tensor],
    seed: Tensor,
    frame: str,
    top: int,
    dropout: float,
) -> list[Tensor]:
    """The output and then what else is wanted."""
    return [_own(one) for one in _frame(frame).run(q, k, v, params, places, seed, top, dropout)]


@attend.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: Sequence[Tensor],
    places: Sequence[Tensor],
    seed: Tensor,
    frame: str,
    top: int,
    dropout: float,
) -> list[Tensor]:
    exact = torch.float64 if q.dtype is torch.float64 else torch.float32
    made = [q.new_empty(*q.shape[:3], v.shape[-1])]
    for name in _frame(frame).wanted:
        if name in ("lse", "entropy"):
            made.append(q.new_empty(q.shape[:3], dtype=exact))
        elif name == "column_mass":
            made.append(q.new_empty((*q.shape[:2], k.shape[2]), dtype=exact))
        elif name == "top_k":
            best = (*q.shape[:3], min(top, k.shape[2]))
            made += [q.new_empty(best, dtype=exact), q.new_empty(best, dtype=torch.int64)]
    return made


@torch.library.custom_op("attentune::attend_backward", mutates_args=())
def attend_backward(
    gradients: Sequence[Tensor],
    sent: Sequence[bool],
    wants: Sequence[bool],
    known: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: Sequence[Tensor],
    places: Sequence[Tensor],
    seed: Tensor,
    frame: str,
    top: int,
    dropout: float,
) -> list[Tensor]:
    """Gradients of q, k, v and `params`, empty where not wanted.

    `gradients` are of the outputs that `sent` any, and `known` are the outputs.
    """

    def differentiate() -> list[Tensor]:
        leaves = [one.detach().requires_grad_(want) for one, want in zip((q, k, v, *params), wants, strict=True)]
        with torch.enable_grad():
            q_, k_, v_, *own = leaves
            outputs = _frame(frame).run(q_, k_, v_, own, places, seed, top, dropout, known)
        reached = [one for one, some in zip(outputs, sent, strict=True) if some]
        ends = [(one, gradient) for one, gradient in zip(reached, gradients, strict=True) if one.requires_grad]
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(asked)
        if ends and asked:
            found = torch.autograd.grad([one for one, _ in ends], asked, [one for _, one in ends], allow_unused=True)
        given = iter(found)
        made = [next(given) if leaf.requires_grad else leaf.new_empty(0) for leaf in leaves]
        return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(made, leaves, strict=True)]

    return [_own(one) for one in _beside_operators(differentiate)]


@attend_backward.register_fake
def _(
    gradients: Sequence[Tensor],
    sent: Sequence[bool],
    wants: Sequence[bool],
    known: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: Sequence[Tensor],
    *rest: Any,
) -> Any:
    return [one.new_empty(one.shape if want else (0,)) for one, want in zip((q, k, v, *params), wants, strict=True)]


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, params, places, seed, *rest = inputs
    ctx.rest, ctx.counts = rest, (len(params), len(places))
    ctx.wants = [one.requires_grad for one in (q, k, v, *params)]
    ctx.floating = [one.is_floating_point() for one in output]
    ctx.save_for_backward(*output, q, k, v, *params, *places, seed)


def _differentiate(ctx: Any, gradients: Sequence[Tensor | None]) -> Any:
    saved = ctx.saved_tensors
    known, (q, k, v, *more, seed) = saved[: len(ctx.floating)], saved[len(ctx.floating) :]
    params, places = more[: ctx.counts[0]], more[ctx.counts[0] :]
    sent = [one is not None and floating for one, floating in zip(gradients, ctx.floating, strict=True)]
    given = [one for one, some in zip(gradients, sent, strict=True) if some and one is not None]
    found = attend_backward(given, sent, ctx.wants, known, q, k, v, params, places, seed, *ctx.rest)
    kept = [one if want else None for one, want in zip(found, ctx.wants, strict=True)]
    return (*kept[:3], kept[3:], [None] * len(places), None, *([None] * len(ctx.rest)))


torch.library.register_autograd("attentune::attend", _differentiate, setup_context=_save)


@dataclass(frozen=True)
class _Frame:
    """All of a call that is no tensor."""

    kernel: Kernel
    spec: AttentionSpec
    layout: LayoutKind
    wanted: tuple[str, ...]
    dims: Dims
    held: dict[str, int]  # values of each slot
    names: tuple[tuple[str, int, str], ...]  # slot, place and name of each parameter
    told: tuple[str, ...]  # which positions of queries and keys there are

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        params: Sequence[Tensor],
        places: Sequence[Tensor],
        seed: Tensor,
        top: int,
        dropout: float,
        known: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """The outputs in a row; dropout follows from `seed`. `known`: those of an earlier run, to be differentiated."""
        own: dict[str, list[dict[str, Tensor]]] = {slot: [{} for _ in range(n)] for slot, n in self.held.items()}
        for (slot, place, name), tensor in zip(self.names, params, strict=True):
            own[slot][place][name] = tensor
        there = dict(zip(self.told, places, strict=True))
        query, key = ({name: there.get(f"{side}.{name}") for name in PLACES} for side in ("query", "key"))
        if self.layout is LayoutKind.PLAIN:
            layout = Layout.plain(q.shape[2], device=q.device)  # known to be like all others of its length
        else:
            layout = _recent(Layout(self.layout, Positions(**query), Positions(**key)))  # type: ignore[arg-type]
        before = Result(known[0], _named(self.wanted, known[1:])) if known else None
        call = Call(self.spec, self.dims, own, q, k, v, layout, dropout, frozenset(self.wanted), top, before)
        with torch.random.fork_rng(devices=[], enabled=bool(dropout)):
            if dropout:
                torch.manual_seed(int(seed))
            result = self.kernel.run(call)
        flat = [result.output]
        for name in self.wanted:
            if name != "output":
                one = result.extra[name]
                flat += [one] if isinstance(one, Tensor) else one
        return flat


@lru_cache(maxsize=256)
def _frame(text: str) -> _Frame:
    kernel, spec, layout, wanted, dims, held, names, told = text.split("\n")
    if spec not in _specs:
        raise KernelError(f"the attention {spec!r} was compiled by another process: build its module first")
    if spec in _ambiguous:
        raise KernelError(f"two different attentions are both written {spec!r}: neither can be compiled")
    parts = [name.split(".", 2) for name in names.split()]
    return _Frame(
        _kernels[kernel],
        _specs[spec],
        LayoutKind(layout),
        tuple(wanted.split()),
        Dims(**dict(zip(SIZES, map(int, dims.split()), strict=True))),  # type: ignore[arg-type]
        {slot: int(count) for slot, count in (one.split(":") for one in held.split())},
        tuple((slot, int(place), name) for slot, place, name in parts),
        tuple(told.split()),
    )


_layouts: list[Layout] = []


def _recent(layout: Layout) -> Layout:
    """An equal layout among the last few, with what all layers and both passes share; else this one, kept."""
    if layout.query.index.device.type != "cpu":
        return layout  # comparing would make an accelerator wait
    for one in tuple(_layouts):
        if one.kind is layout.kind and _equal(one.query, layout.query) and _equal(one.key, layout.key):
            return one
    with torch.inference_mode(False):  # numbers of its own: a compiler writes over its tensors
        same = layout.key is layout.query
        query = layout.query.map(torch.clone)
        _layouts.insert(0, Layout(layout.kind, query, query if same else layout.key.map(torch.clone)))
        del _layouts[RECENT:]
        return _layouts[0]


def _equal(one: Positions, other: Positions) -> bool:
    """Whether all numbers are the same."""
    for name in PLACES:
        held, given = getattr(one, name), getattr(other, name)
        if (held is None) != (given is None) or (held is not None and not torch.equal(held, given)):
            return False
    return True


def _own(tensor: Tensor) -> Tensor:
    """Memory of its own, without gaps: an operator returns no view of what it was given."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="attentune-backward")


def _beside_operators(work: Callable[[], list[Tensor]]) -> list[Tensor]:
    return _thread().submit(work).result()
