"""Learning rates at points computed by hand."""

from __future__ import annotations

import pytest

from attentune.spec.run import ScheduleSpec
from attentune.training.schedules import learning_rate_share


def shares(schedule: ScheduleSpec, steps: int) -> list[float]:
    return [learning_rate_share(schedule, step=step, steps=steps) for step in range(steps)]


def test_warmup_then_constant() -> None:
    assert shares(ScheduleSpec(name="constant", warmup=4), 7) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_cosine_from_peak_to_floor() -> None:
    found = shares(ScheduleSpec(name="cosine", warmup=1, floor=0.2), 6)
    # after warm-up the cosine takes 4 intervals: 1, 0.2 + 0.8 * (1 + cos 45°) / 2, 0.6, ..., 0.2
    assert found == pytest.approx([0.5, 1.0, 0.8828427, 0.6, 0.3171573, 0.2])


def test_wsd_is_flat_then_linear() -> None:
    found = shares(ScheduleSpec(name="wsd", warmup=1, floor=0.0, decay=0.4), 10)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.0])


def test_wsd_floor_and_warmup_that_overlaps_the_decay() -> None:
    assert shares(ScheduleSpec(name="wsd", warmup=0, floor=0.5, decay=0.5), 4) == pytest.approx([1, 1, 0.75, 0.5])
    found = shares(ScheduleSpec(name="wsd", warmup=3, floor=0.0, decay=1.0), 4)
    assert found == pytest.approx([0.25, 0.5, 0.25, 0.0])


def test_warmup_longer_than_the_run_only_warms_up() -> None:
    assert shares(ScheduleSpec(name="cosine", warmup=9), 3) == pytest.approx([0.1, 0.2, 0.3])
