"""Learning rate over steps: a linear warm-up, then constant, cosine, or warm-up-stable-decay (arXiv:2404.06395)."""

from __future__ import annotations

import math

from attentune.spec.run import ScheduleSpec


def learning_rate_share(schedule: ScheduleSpec, *, step: int, steps: int) -> float:
    """The share of the peak learning rate that optimizer step number `step` (0 to `steps` - 1) uses.

    With W warm-up steps, step i < W uses (i + 1) / (W + 1), so that step W is the first at the full peak. From there
    `cosine` falls to `floor` at the very last step along half a cosine; `wsd` stays at 1 and falls linearly to `floor`
    over the last `decay` share of all steps (at least one step); `constant` stays at 1. Where warm-up and decay
    overlap, the smaller of the two counts.
    """
    warming = min(1.0, (step + 1) / (schedule.warmup + 1))
    if schedule.name == "constant":
        return warming
    if schedule.name == "cosine":
        span = steps - 1 - schedule.warmup
        progress = min(1.0, max(0.0, (step - schedule.warmup) / span)) if span > 0 else 0.0
        shape = schedule.floor + (1.0 - schedule.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        decaying = max(1, round(schedule.decay * steps))
        progress = max(0.0, (step - (steps - decaying) + 1) / decaying)
        shape = 1.0 - (1.0 - schedule.floor) * progress
    return min(warming, shape)
