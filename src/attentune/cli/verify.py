"""`attentune verify`: the proof, on the user's own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from attentune.cli.console import activity, print_json
from attentune.cli.parsing import CommandOptions
from attentune.cli.words import UsageError

EXAMPLES = """
    attentune verify
    attentune verify --mechanism window alibi
    attentune verify --attention "heads=8/2, position=rotary, mask=causal & window(3)" --kernel sdpa
    attentune verify --plugin mine.py --mechanism mine --dtype float64
    attentune verify --quick --json > proof.json
"""
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Options(CommandOptions):
    """Run the checks of every mechanism, kernel, dtype and layout, outputs and gradients, against the reference.

    Each case passes, is refused with a reason, or fails with its worst number and the command that shows it again;
    the exit code is 1 where any fails. On a CPU FlexAttention has no gradients: its cases are refused, but with
    --kernel flex it is compiled for each of them (slow) and its outputs are verified.
    """

    mechanism: tuple[str, ...] = ()  # only these, by name
    attention: tuple[str, ...] = ()  # texts of attentions or layers to verify instead
    kernel: tuple[str, ...] = ()  # only these: sdpa, blocked, flex, reference, a form of a mixer (chunked), identity
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: tuple[Literal["float64", "float32", "bfloat16", "float16"], ...] = ()  # only these; else all but float16
    layout: tuple[Literal["plain", "padded", "packed", "cached", "cross"], ...] = ()  # only these
    seed: Seed = 0  # of all operands and parameters
    refusals: bool = False  # name every refused case, instead of counting those of a reason; --json always does
    quick: bool = False  # the plain example of each mechanism: every layout in float64, plain rows in float32
    plugin: Path | None = None  # Python file that adds mechanisms; it is run, so only name files you trust


def run(options: Options) -> int:
    """Print what came of each mechanism; 1 where a case failed."""
    if options.mechanism and options.attention:
        raise UsageError("give --mechanism NAMES or --attention TEXTS, not both")
    import torch

    from attentune.cli.proof_view import as_data, as_text
    from attentune.mechanisms import load_plugin, registry
    from attentune.verification.proof import verify
    from attentune.verification.suite import Selection

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA device on this machine")
    if options.plugin is not None:
        load_plugin(options.plugin, registry)
    selection = Selection(
        mechanisms=options.mechanism,
        attentions=options.attention,
        kernels=options.kernel,
        dtypes=tuple(getattr(torch, name) for name in options.dtype),
        layouts=options.layout,
        device=options.device,
        seed=options.seed,
        quick=options.quick,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are too small to be shared
    try:
        with activity("verify") as report:
            rows = verify(selection, report)
    finally:
        torch.set_num_threads(threads)
    if not rows:
        raise UsageError("no case is left: none of the mechanisms asked for is computed by the kernels asked for")
    if options.json_:
        print_json(as_data(rows, plugin=options.plugin))
    else:
        print(as_text(rows, plugin=options.plugin, refusals=options.refusals), end="")
    return 1 if any(row.status == "fail" for row in rows) else 0
