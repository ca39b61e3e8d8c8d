"""Running the cases: each passes, is refused with its reason, or fails with its worst number."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from attentune.errors import AttentuneError
from attentune.kernels import plan
from attentune.spec.model import LayerSpec
from attentune.verification import inputs, kernel_checks, mixer_checks, model_checks
from attentune.verification.findings import Finding, holds
from attentune.verification.identities import IDENTITIES
from attentune.verification.kernel_checks import KernelCase
from attentune.verification.mixer_checks import MixerCase
from attentune.verification.model_case import ModelCase
from attentune.verification.round_trip import comes_back
from attentune.verification.suite import IDENTITY, Item, Selection, items

Status = Literal["pass", "refused", "fail"]


@dataclass(frozen=True)
class Row:
    """What came of one case."""

    mechanism: str
    attention: str
    kernel: str
    dtype: str
    layout: str
    status: Status
    reason: str = ""  # of a refusal
    checks: int = 0  # numbers that were compared
    worst: Finding | None = None
    seconds: float = 0.0
    sizes: str = ""
    seed: int = 0
    command: str = ""  # that does this case again

    def as_data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


class Refusal(Exception):  # noqa: N818 - no error: the case has no meaning, or a kernel says why it cannot
    """Why a case is not computed."""


def verify(selection: Selection, report: Callable[[int, int, str], None] | None = None) -> list[Row]:
    """Run every case of `selection`; `report` is told how many are done, how many there are, and which comes next."""
    cases, rows, known = list(items(selection)), [], {}
    for done, item in enumerate(cases):
        if report is not None:
            report(done, len(cases), f"{item.mechanism} {item.kernel}")
        same = replace(item, mechanism="") if item.layer is not None else item
        if same not in known:  # several mechanisms are shown by one attention
            known[same] = verify_item(item, selection)
        rows.append(replace(known[same], mechanism=item.mechanism))
    if report is not None:
        report(len(cases), len(cases), "")
    return rows


def verify_item(item: Item, selection: Selection) -> Row:
    """Run one case. An error of ours that is none of the user's is a failure, not an exception."""
    row = Row(
        mechanism=item.mechanism,
        attention=item.text,
        kernel=item.kernel,
        dtype=str(item.dtype).removeprefix("torch."),
        layout=item.layout,
        status="refused",
        reason=item.refusal,
        seed=selection.seed,
        sizes=f"batch {inputs.BATCH}, length {inputs.LENGTH}",
        command=_command(item, selection),
    )
    if item.refusal:
        return row
    began, findings = time.perf_counter(), list[Finding]()
    reason, status = "", "pass"
    try:
        for finding in _findings(item, selection):
            findings.append(finding)
    except (Refusal, AttentuneError) as refusal:
        reason, status = " ".join(str(refusal).split()), "refused"
    except Exception as error:
        findings.append(holds(f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}", "", False))
    worst = max(findings, key=lambda finding: finding.severity, default=None)
    if worst is not None and worst.broken:
        status = "fail"
    return replace(
        row,
        status="fail" if status == "fail" else "refused" if status == "refused" else "pass",
        reason=reason,
        checks=len(findings),
        worst=worst,
        seconds=time.perf_counter() - began,
    )


def _command(item: Item, selection: Selection) -> str:
    words = ["attentune", "verify"]
    words += ["--attention", item.text] if item.layer is not None else ["--mechanism", item.mechanism]
    words += ["--kernel", item.kernel, "--dtype", str(item.dtype).removeprefix("torch.")]
    words += [] if item.kernel == IDENTITY else ["--layout", item.layout]
    words += [] if selection.device == "cpu" else ["--device", selection.device]
    return shlex.join([*words, "--seed", str(selection.seed)])


def _findings(item: Item, selection: Selection) -> Iterator[Finding]:
    if item.kernel == IDENTITY:
        yield from IDENTITIES[item.mechanism][item.text](item.dtype, selection.seed)
        return
    assert item.layer is not None
    if item.dtype is torch.float64 and item.layout == "plain":
        yield from comes_back(item.layer)
    if item.mixer is not None:
        yield from _of_mixer(item, selection)
    else:
        yield from _of_attention(item, selection)


def _of_mixer(item: Item, selection: Selection) -> Iterator[Finding]:
    mixer = item.mixer
    assert mixer is not None and item.layer is not None
    if item.layer.attention is None:
        case = MixerCase(mixer, item.kernel, item.dtype, item.layout, selection.device, selection.seed)
        for check in mixer_checks.CHECKS[item.layout]:
            yield from check(case)
        if item.dtype is torch.float32 and item.kernel != "recurrent" and item.layout in ("plain", "padded", "packed"):
            yield from mixer_checks.exact(replace(case, length=inputs.LONG))
    beside = item.layer.attention is not None  # else something was verified already
    if item.kernel != mixer.preferred(inputs.LENGTH) and not item.named:
        if beside:
            raise Refusal(
                f"a model takes the form {mixer.preferred(inputs.LENGTH)}; this one is verified on the mixer alone"
            )
        return
    if beside and not _as_a_model(item):
        raise Refusal("beside attention in this dtype, the plain example of the mechanism stands for the others")
    yield from _of_model(item.layer, "auto", item, selection)


def _of_attention(item: Item, selection: Selection) -> Iterator[Finding]:
    assert item.layer is not None
    spec = item.layer.cross or item.layer.attention
    assert spec is not None
    case = KernelCase(spec, item.kernel, item.dtype, item.layout, selection.device, selection.seed)
    if case.reasons() and item.named:
        case = replace(case, forward_only=True)
    if reasons := case.reasons():
        raise Refusal("; ".join(map(str, reasons)))
    for check in kernel_checks.CHECKS[item.layout]:
        yield from check(case)
    if item.kernel != "reference" and item.dtype is torch.float32 and item.layout in ("plain", "padded", "packed"):
        long = replace(case, length=inputs.LONG)  # more than a tile
        yield from kernel_checks.exact(long)
    if case.forward_only:
        return
    chosen = plan(case.request()).choice
    if item.named or item.kernel == chosen or (item.kernel == "reference" and item.dtype is torch.float64):
        yield from _of_model(item.layer, item.kernel, item, selection)


def _as_a_model(item: Item) -> bool:
    return item.plain or item.named or item.dtype is torch.float64


def _of_model(layer: LayerSpec, kernel: str, item: Item, selection: Selection) -> Iterator[Finding]:
    """Whole layers: by the kernel that is chosen for the dtype, and all of them by the reference in float64."""
    if not _as_a_model(item):
        return
    case = ModelCase(layer, kernel, item.dtype, item.layout, selection.device, selection.seed)
    for check in model_checks.CHECKS[item.layout]:
        yield from check(case)
