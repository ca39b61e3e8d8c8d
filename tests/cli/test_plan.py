"""`attentune plan` explains the choice, every refusal, and the predicted cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attentune.cli import main
from attentune.kernels import KERNELS


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_request_is_the_one_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    attention = "heads=8/2, position=rotary, mask=causal & window(256)"
    (plan,) = explained(
        capsys, "--attention", attention, "--length", "300", "--batch", "3", "--dtype", "bfloat16", "--train"
    )
    assert plan["attention"] == attention
    assert (plan["batch"], plan["queries"], plan["keys"], plan["layout"]) == (3, 300, 300, "plain")
    assert (plan["dtype"], plan["device"], plan["gradients"]) == ("bfloat16", "cpu", True)
    assert set(plan["kernels"]) == set(KERNELS)


def test_refusals_are_listed_and_the_choice_is_able(capsys: pytest.CaptureFixture[str]) -> None:
    (plan,) = explained(capsys, "--attention", "heads=8, mask=causal, normalizer=entmax15")
    assert plan["choice"] in ("reference", "blocked")
    assert plan["kernels"]["reference"]["operations"] > 0
    assert plan["kernels"]["reference"]["bytes"] > 0
    assert not plan["kernels"]["sdpa"]["able"]
    assert plan["kernels"]["sdpa"]["reasons"][0]["part"] == "normalizer=entmax15"
    assert plan["kernels"]["sdpa"]["why_not"].startswith("normalizer=entmax15: ")


def test_a_cache_has_more_keys_than_queries(capsys: pytest.CaptureFixture[str]) -> None:
    (plan,) = explained(capsys, "--attention", "heads=8, mask=causal", "--length", "1", "--keys", "2048")
    assert (plan["queries"], plan["keys"], plan["layout"]) == (1, 2048, "cached")
    (plan,) = explained(capsys, "--attention", "heads=8, mask=causal, memory=transformer_xl(64)", "--length", "100")
    assert (plan["queries"], plan["keys"], plan["layout"]) == (100, 164, "cached")


def test_the_plan_as_text_names_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--attention", "heads=4, mask=causal", "--width", "64", "--length", "32"]) == 0
    shown = capsys.readouterr().out
    assert "heads=4, mask=causal" in shown
    assert "4 heads of 16" in shown
    assert all(name in shown for name in KERNELS)
    assert "operations" in shown
    assert "bytes" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --attention "),
        (["--attention", "heads=8", "--model", "x"], "give --attention "),
        (["--model", "x", "--width", "8"], "--width is what the model says"),
        (["--attention", "heads=7"], "heads must divide the width, got heads=7, width=512"),
        (["--attention", "heads=8, mask=causl"], "mask=causl is unknown; did you mean 'causal'?"),
        (
            ["--attention", "heads=8", "--length", "8", "--keys", "4"],
            "--keys must be at least --length, got 4 keys and 8",
        ),
        (["--attention", "heads=8, mask=causal", "--layout", "cross"], "cross-attention has no common order"),
        (
            ["--attention", "heads=8, normalizer=entmax15", "--kernel", "sdpa"],
            "kernel sdpa cannot compute this attention: ",
        ),
        (["--attention", "heads=8", "--kernel", "spda"], "unknown kernel 'spda'; did you mean 'sdpa'?"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["plan", *arguments]) == 2
    caught = capsys.readouterr().err
    assert caught.startswith(f"attentune: error: {says}")
    assert caught.count("\n") == 1
