"""Random combinations of slots: each computes what the reference computes, or is refused with a reason."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from attentune.errors import AttentuneError
from attentune.mechanisms import layer as read_layer
from attentune.spec.model import LayerSpec
from spec.combining import attempts, outcome

# The run-time checks of shapes draw random items of containers, which concerns no example here.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
PATIENT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
Attempt = tuple[LayerSpec | AttentuneError, str, int, torch.dtype, int]


def computes_or_refuses(attempt: Attempt) -> None:
    layer, layout, length, dtype, seed = attempt
    if isinstance(layer, AttentuneError):
        reason = str(layer)
    else:
        reason, findings = outcome(layer, layout, length, dtype, seed)
        broken = [str(finding) for finding in findings if finding.broken]
        assert broken == [], f"{layer} on {layout}, {length} tokens, {dtype}, seed {seed}"
        if not reason:
            assert len(findings) > 3
            return
    assert reason
    assert "\n" not in reason


FOUND = [  # by earlier draws
    ("heads=4/2, similarity=function(verified_nearness), mask=block_window(1, 1), normalizer=relu2", "plain", 7, 0),
]


@pytest.mark.slow  # each is compiled for some of the kernels
@pytest.mark.parametrize(("text", "layout", "length", "seed"), FOUND)
def test_what_was_found_before(text: str, layout: str, length: int, seed: int) -> None:
    computes_or_refuses((read_layer(text), layout, length, torch.float64, seed))


@settings(max_examples=120, deadline=None, suppress_health_check=PATIENT, derandomize=True)
@given(attempts())
def test_each_computes_what_the_reference_does_or_is_refused_with_a_reason(attempt: Attempt) -> None:
    computes_or_refuses(attempt)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=PATIENT)
@given(attempts())
def test_two_thousand_more(attempt: Attempt) -> None:
    computes_or_refuses(attempt)
