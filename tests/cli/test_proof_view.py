"""A verification as text: refusals counted by their reason, or named one by one."""

from __future__ import annotations

from attentune.cli.proof_view import as_text
from attentune.verification.proof import Row


def refused(mechanism: str, kernel: str, reason: str, layout: str = "plain") -> Row:
    return Row(mechanism, f"heads=4, {mechanism}", kernel, "float32", layout, "refused", reason=reason)


SOFTMAX = "normalizer={}: the kernel computes softmax only"
GRADIENTS = "gradients: FlexAttention has no backward pass on a CPU"
ORDER = "LayerSpec: cross-attention has no common order: position={} has no meaning; use none"
ROWS = (
    refused("sparsemax", "sdpa", SOFTMAX.format("sparsemax")),
    refused("sparsemax", "flex", f"{SOFTMAX.format('sparsemax')}; {GRADIENTS}"),
    refused("entmax", "flex", f"{SOFTMAX.format('entmax')}; {GRADIENTS}"),
    refused("alibi", "flex", GRADIENTS),
    refused("alibi", "flex", GRADIENTS, "padded"),
    refused("alibi", "sdpa", ORDER.format("alibi"), "cross"),
    refused("rotary", "sdpa", ORDER.format("rotary"), "cross"),
)


def test_refusals_are_counted_by_their_reason() -> None:
    assert as_text(ROWS).split("refused cases by reason")[1].splitlines()[1:5] == [
        f"      4  flex: {GRADIENTS}",
        "      3  sdpa, flex: normalizer: the kernel computes softmax only (sparsemax, entmax)",
        "      2  sdpa: cross-attention has no common order: position has no meaning; use none (alibi, rotary)",
        "",
    ]


def test_every_refusal_is_named_where_that_is_asked_for() -> None:
    shown = as_text(ROWS, refusals=True)
    assert "\nrefused, and why\n" in shown
    assert f"  flex: {GRADIENTS}\n      of alibi (plain, padded)\n" in shown
    assert "refused cases by reason" not in shown


def test_nothing_is_said_of_refusals_where_there_are_none() -> None:
    row = Row("alibi", "heads=4", "sdpa", "float32", "plain", "pass")
    assert "refused cases" not in as_text((row,))
