"""From the options of `attentune plan` to plans, and from a plan to plain data."""

from __future__ import annotations

from typing import Any

import torch

from attentune.cli.plan import Options
from attentune.kernels import KERNELS, LayoutKind, Plan, Request, plan
from attentune.mechanisms import attention, load_plugin, registry
from attentune.models.checkpoint import load_model
from attentune.spec.attention import AttentionSpec


def plans(options: Options) -> list[Plan]:
    """The plan of the attention that is named, or of each different attention of the model, in order of the layers."""
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    if options.model is None:
        assert options.attention is not None
        return [plan(_request(options, attention(options.attention), width=options.width or 512), options.kernel)]
    spec = load_model(options.model).model.spec
    requests = [_request(options, one, width=spec.width, depth=spec.depth, bias=spec.bias) for one in spec.attentions]
    return [plan(request, options.kernel) for request in dict.fromkeys(requests)]


def _request(options: Options, spec: AttentionSpec, *, width: int, depth: int = 1, bias: bool = False) -> Request:
    cross = options.layout == "cross"
    if cross:
        spec.check_cross()
    remembered = spec.memory.length if spec.memory is not None else 0
    keys = options.keys if options.keys is not None else options.length + remembered
    layout = LayoutKind(options.layout)
    return Request(
        spec=spec,
        dims=spec.heads.dims(width=width, source_width=width, depth=depth, bias=bias, cross=cross),
        batch=options.batch,
        query_length=options.length,
        key_length=keys,
        layout=LayoutKind.CACHED if keys != options.length and not cross else layout,
        device=options.device,
        dtype=getattr(torch, options.dtype),
        needs_grad=options.train,
        dropout=options.dropout,
        wanted=frozenset({"output", *options.wanted}),
    )


def as_data(found: Plan) -> dict[str, Any]:
    """A plan as plain data: the request, the choice, and every kernel with its prediction or its reasons."""
    request = found.request
    kernels: dict[str, Any] = {}
    for name in KERNELS:
        if name in found.refusals:
            reasons = [{"part": reason.part, "rule": reason.rule} for reason in found.refusals[name]]
            kernels[name] = {"able": False, "reasons": reasons}
        else:
            cost = found.costs[name]
            kernels[name] = {
                "able": True,
                "operations": cost.operations,
                "bytes": cost.bytes,
                "seconds": found.seconds[name],
            }
        if name != found.choice:
            kernels[name]["why_not"] = found.why_not(name)
    return {
        "attention": str(request.spec),
        "batch": request.batch,
        "queries": request.query_length,
        "keys": request.key_length,
        "layout": str(request.layout),
        "device": request.device,
        "dtype": str(request.dtype).removeprefix("torch."),
        "gradients": request.needs_grad,
        "dropout": request.dropout,
        "choice": found.choice,
        "kernels": kernels,
    }
