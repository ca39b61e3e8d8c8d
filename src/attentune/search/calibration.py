"""What trials take, as measured on the baseline first, and the shares of a budget that go to each purpose."""

from __future__ import annotations

from dataclasses import dataclass

CALIBRATION_STEPS = 30
MIXTURE = 1.35  # candidates cost about this much more time a step than the baseline, averaged over the default space
INTERIM_COST = 1.06  # what evaluations on the way add to the time of a step
UNPRUNED_SHARE = 0.8  # of the planned steps, what is left after pruning
RESERVE_SECONDS = 14.0  # for deployment: a fresh process, pictures, report
RESERVE_SHARE = 0.04
JUDGED_SHARE = 0.35  # of a search trial's time, at most, for what it is judged by
FEWEST_JUDGED = 32  # tokens or records
LEAST_STEPS = 16


@dataclass(frozen=True)
class Calibration:
    """Measured on the baseline first: seconds of a training step, and of judging by one token or record."""

    step_seconds: float
    evaluation_seconds: float  # of each evaluation on the way
    judging_seconds: float  # at the end
    trial_seconds: float  # of building and measuring, whatever the number of steps

    def judged(self, evaluations: int) -> float:
        """Seconds that a token or record costs over a whole run."""
        return evaluations * self.evaluation_seconds + self.judging_seconds
