"""The contract of whole layers: two of them as a language model, with projections, rotations, caches and what is
carried from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from attentune.kernels import Layout
from attentune.layers.state import State
from attentune.shapes import Tensor
from attentune.verification import inputs
from attentune.verification.findings import Finding, holds, largest, same, within_dtype
from attentune.verification.model_case import OTHER, ROUNDS, ModelCase

STEP = 1e-5  # of central differences, along directions of length 1
SLOPE = 1e-6  # relative error that differences of that step keep to


def exact(case: ModelCase) -> Iterator[Finding]:
    """Logits and gradients of all parameters are those of the float64 reference."""
    slack = ROUNDS * max(largest(tensor) for tensor in case.shaken.values())
    yield from within_dtype("exact as a model", case.found, case.truth, case.dtype, factor=case.spec.depth, slack=slack)


def every_parameter_learns(case: ModelCase) -> Iterator[Finding]:
    """Each tensor that a value declares receives a gradient in one of the layers."""
    if case.dtype is not torch.float64 or not _keys_differ(case):
        return
    reached: dict[str, bool] = {}
    for name, gradient in case.found.items():
        if name.startswith("layers."):
            own = name.split(".", 2)[2]
            reached[own] = reached.get(own, False) or bool((gradient != 0).any())
    for name, learns in reached.items():
        yield holds("every parameter receives a gradient", name, learns)


def gradients_are_slopes(case: ModelCase) -> Iterator[Finding]:
    """The gradient of each tensor, along a random direction, is the central difference of the loss itself.

    Other checks compare one way of computing with another; this one holds the mathematics that all of them share.
    """
    if case.dtype is not torch.float64 or case.kernel not in ("auto", "reference"):
        return
    found = case.found
    generator = torch.Generator().manual_seed(case.seed)
    for name, parameter in case.model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm().clamp(min=1e-12)
        given = float((found[name] * direction).sum())
        slope = _difference(case, parameter, STEP / 2 * direction) / STEP
        allowed = SLOPE * max(1.0, abs(slope), largest(found[name]))
        if not abs(slope - given) <= allowed:  # without the loss's own curvature (Richardson)
            slope = (4 * slope - _difference(case, parameter, STEP * direction) / (2 * STEP)) / 3
        yield Finding("gradients are slopes", name, abs(slope - given), allowed)


def _difference(case: ModelCase, parameter: Tensor, step: Tensor) -> float:
    """By how much the loss differs between one `step` ahead of `parameter` and one behind."""
    begun, ends = parameter.detach().clone(), []
    with torch.no_grad():
        try:
            for end in (begun + step.to(parameter), begun - step.to(parameter)):
                parameter.copy_(end)
                ends.append(float(case.loss(case.model, case.ids)[0]))
        finally:  # other checks compute with the same model
            parameter.copy_(begun)
    return ends[0] - ends[1]


def _keys_differ(case: ModelCase) -> bool:
    """Whether any query has two keys to choose from: else its scores change nothing."""
    if case.layer.attention is None:
        return True
    return bool((case.make_layout().visible(case.layer.attention.mask).sum(-1) > 1).any())


def nothing_flows_from_the_future(case: ModelCase) -> Iterator[Finding]:
    """Later tokens change no earlier logits."""
    if not case.is_causal:
        return
    before = case.rows
    for t in range(1, inputs.LENGTH, 2):
        ids = case.ids.clone()
        ids[:, t:] = ids[:, t:] + OTHER
        after = case.logits(ids, case.make_layout())
        name = f"logits before token {t}"
        check = "nothing flows from the future, as a model"
        yield from same(check, {name: after[:, :t]}, {name: before[:, :t]}, case.dtype, slack=case.slack)
        yield holds("a token is seen", f"logits of token {t}", not torch.equal(after[:, t], before[:, t]))


def padding_is_inert(case: ModelCase) -> Iterator[Finding]:
    """Other tokens on padding change no logits and no gradients; a padded row computes what its tokens do alone."""
    valid = inputs.padding(inputs.LENGTH) if case.layout == "padded" else inputs.documents(inputs.LENGTH) >= 0
    other = torch.where(valid, case.ids, case.ids + OTHER)
    yield from same("padding is inert, as a model", case.compute(case.model, other), case.found, case.dtype)
    if case.layout != "padded":
        return
    logits = case.rows
    for row in range(2):
        real = valid[row]
        alone = case.logits(case.ids[row : row + 1, real], case.plain(int(real.sum()), row), row=row)
        name = f"logits of row {row}"
        yield from same(
            "a padded row is its real tokens", {name: logits[row, real]}, {name: alone[0]}, case.dtype, slack=case.slack
        )


def documents_are_isolated(case: ModelCase) -> Iterator[Finding]:
    """Every document of a packed row computes what it computes alone."""
    logits = case.rows
    for row, begin, end in inputs.document_spans(inputs.LENGTH):
        alone = case.logits(case.ids[row : row + 1, begin:end], case.plain(end - begin, row), row=row)
        name = f"logits of row {row}, tokens {begin} to {end - 1}"
        part = {name: logits[row, begin:end]}
        yield from same("documents are isolated, as a model", part, {name: alone[0]}, case.dtype, slack=case.slack)


def decoding_is_the_whole(case: ModelCase) -> Iterator[Finding]:
    """Token by token, in chunks, after a padded prompt and after going back: the same logits; unfilled slots hold NaN.

    Raises `SpecError` where the layer refuses to be decoded.
    """
    whole = case.rows
    length = inputs.LENGTH
    first = min(case.first, length)  # where it needs more, the model says so
    for name, pieces in (
        ("one token at a time", [first] + [1] * (length - first)),
        ("in chunks", [first, *_chunks(length - first)]),
    ):
        state = case.model.start(inputs.BATCH)
        given = _decoded(case, case.ids, pieces, state, _prompt(case, first))
        yield from same(
            f"decoding {name} is the whole", {"logits": given}, {"logits": whole}, case.dtype, slack=case.slack
        )
        if name == "in chunks" and not case.remembers and not case.layer.branches and length - 2 >= first:
            state.truncate(length - 2)
            again = _decoded(case, case.ids[:, length - 2 :], [1, 1], state, None)
            part = {"logits": whole[:, length - 2 :]}
            yield from same(
                "decoding after going back is the whole", {"logits": again}, part, case.dtype, slack=case.slack
            )
    if first == 1 and not case.remembers:
        yield from _after_a_padded_prompt(case)


def _prompt(case: ModelCase, length: int) -> Layout | None:
    """The layout of the first piece: what a mask must be told of each row's prefix."""
    layout = case.make_layout()
    if layout.query.prefix is None:
        return None
    return Layout.plain(length, device=case.device).with_prefix(torch.tensor(inputs.PREFIX, device=case.device))


def _chunks(length: int) -> list[int]:
    found = []
    for size in (2, 3, 2, 3):
        found.append(min(size, length))
        length -= found[-1]
    return [size for size in found if size]


def _decoded(case: ModelCase, ids: Tensor, pieces: list[int], state: State, layout: Layout | None) -> Tensor:
    given = []
    for piece in ids.split(pieces, 1):
        given.append(case.logits(piece, layout, state))
        layout = None
        for layer in state.layers:
            if layer.cache is not None:
                for buffer in layer.cache.buffers.values():
                    buffer[:, :, layer.cache.length :] = float("nan")
    return torch.cat(given, 1)


def _after_a_padded_prompt(case: ModelCase) -> Iterator[Finding]:
    valid = inputs.padding(inputs.LENGTH)
    state = case.model.start(inputs.BATCH)
    prompt = Layout.padded(valid.to(case.device))
    prefixed = case.plain(1)
    if prefixed.query.prefix is not None:
        prompt = prompt.with_prefix(torch.tensor(inputs.PREFIX, device=case.device))
    _decoded(case, case.ids, [inputs.LENGTH], state, prompt)
    following = case.ids[:, :2] + OTHER
    given = _decoded(case, following, [1, 1], state, None)
    for row in range(inputs.BATCH):
        ids = torch.cat([case.ids[row, valid[row]], following[row]])[None]
        alone = case.logits(ids, case.plain(ids.shape[1], row), row=row)
        name = f"logits of row {row}"
        check = "decoding after a padded prompt is the whole"
        yield from same(check, {name: given[row]}, {name: alone[0, -2:]}, case.dtype, slack=case.slack)


CHECKS: dict[str, tuple[Callable[[ModelCase], Iterator[Finding]], ...]] = {
    "plain": (exact, every_parameter_learns, gradients_are_slopes, nothing_flows_from_the_future),
    "padded": (exact, padding_is_inert),
    "packed": (exact, padding_is_inert, documents_are_isolated),
    "cached": (decoding_is_the_whole,),
    "cross": (exact, every_parameter_learns, gradients_are_slopes, decoding_is_the_whole),
}
