from __future__ import annotations

from pathlib import Path

from unchecked import run_without_shape_checks


def test_blocked_compiles_without_a_break_of_the_graph() -> None:
    run_without_shape_checks(Path(__file__).with_name("compiled_blocked.py"), at_least=11)
