from __future__ import annotations

from pathlib import Path

import pytest

from unchecked import run_without_shape_checks

CASES = Path(__file__).with_name("compiled_flex.py")


def test_flex_equals_the_reference() -> None:
    run_without_shape_checks(CASES, at_least=4)


@pytest.mark.slow
def test_flex_equals_the_reference_on_every_layout() -> None:
    run_without_shape_checks(CASES, at_least=56, marked="slow")
