"""What `precision = "auto"` means where."""

from __future__ import annotations

import pytest
import torch

from attentune.training.session import resolved_precision


def test_auto_is_fp32_on_a_cpu() -> None:
    assert resolved_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_a_gpu_that_has_it(able: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    assert resolved_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("named", ["fp32", "bf16"])
def test_a_named_precision_is_kept(named: str) -> None:
    assert resolved_precision(named, torch.device("cpu")) == named
