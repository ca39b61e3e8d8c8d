"""Noise bands, verdicts and Pareto fronts against printed tables and numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attentune.errors import StudyError
from attentune.search.analysis import (
    difference,
    drawing_band,
    judge,
    noise_band,
    pareto_front,
    pareto_indices,
    records_band,
    t_coverage,
    t_quantile,
)
from attentune.search.result import ArmResult, Measure, Status, TrialRecord


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # two-sided 95 %, from the table printed in every statistics book
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_quantiles_match_the_printed_table(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5.1e-4)


def test_quantiles_with_a_closed_form_are_exact() -> None:
    # one degree is Cauchy's distribution; two have the closed form c * sqrt(2 / (1 - c^2))
    assert t_quantile(1) == pytest.approx(math.tan(math.pi / 2 * 0.95), rel=1e-12)
    assert t_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)
    assert t_quantile(4, 0.99) == pytest.approx(4.604095, abs=1e-6)
    assert t_quantile(100_000) == pytest.approx(1.959964, abs=1e-4)


def test_coverage_of_nothing_is_zero_and_grows() -> None:
    for degrees in (1, 2, 3, 8):
        values = [t_coverage(t, degrees) for t in (0.0, 0.5, 1.0, 5.0, 500.0)]
        assert values[0] == 0
        assert values == sorted(values)
        assert 0.99 < values[-1] <= 1


@pytest.mark.parametrize(("degrees", "confidence"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_quantiles_refuse_what_has_no_answer(degrees: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="degrees >= 1"):
        t_quantile(degrees, confidence)


def test_band_by_hand() -> None:
    # gains .04 .05 .06: mean .05, standard deviation .01, standard error .01/sqrt(3), quantile 4.30265
    assert noise_band((0.04, 0.05, 0.06)) == pytest.approx(4.30265 * 0.01 / math.sqrt(3), rel=1e-5)
    assert noise_band((0.1,)) is None
    assert noise_band((0.1, 0.3)) == pytest.approx(12.7062 * 0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.04, 0.05, 0.06), "gain"),  # band .0248 < .05
        ((-0.04, -0.05, -0.06), "loss"),
        ((0.0, 0.05, 0.1), "noise"),  # band .124 > .05
        ((0.0, 0.0, 0.0), "noise"),  # nothing at all is no gain
        ((0.5, 0.5), "noise"),  # two seeds are not enough to tell, however alike
        ((0.5,), "noise"),
    ],
)
def test_verdicts(gains: tuple[float, ...], verdict: str) -> None:
    assert judge(gains, noise_band(gains)) == verdict


def test_folds_that_share_what_they_train_on_have_a_wider_band() -> None:
    gains = (0.04, 0.05, 0.06, 0.05)
    # of four folds one is held out and three are trained on: variance (1/4 + 1/3) instead of 1/4
    assert noise_band(gains, folds=4) == pytest.approx(t_quantile(3) * math.sqrt(1 / 4 + 1 / 3) * 0.00816497, rel=1e-5)
    # three of ten folds could be trained: (1/3 + 1/9) instead of 1/3
    ten, seeds = noise_band(gains[:3], folds=10), noise_band(gains[:3])
    assert ten is not None and seeds is not None
    assert ten == pytest.approx(seeds * math.sqrt(1 + 3 / 9))
    before, after = arm("tuned", (0, 1, 2), (2.03, 2.04, 2.05)), arm("winner", (0, 1, 2), (2.01, 2.01, 2.01))
    found, folded = difference("attention", before, after), difference("attention", before, after, folds=3)
    assert (found.verdict, found.folds, folded.verdict, folded.folds) == ("gain", 0, "noise", 3)
    assert found.band is not None and folded.band == pytest.approx(found.band * math.sqrt(2.5))


def score(answers: int, best: float = 1.0) -> Measure:
    return Measure(name="accuracy", unit="", higher_is_better=True, answers=answers, best=best)


def test_seeds_that_agree_on_few_records_are_no_gain() -> None:
    one = (1 / 56,) * 3  # the same answer of 56 in all three seeds: Student's interval has no width
    assert noise_band(one) == 0
    assert judge(one, noise_band(one)) == "gain"
    # k = 1: 1.959964 sqrt(2 - 1/58) / 58
    assert noise_band(one, score(56)) == pytest.approx(0.0475840, abs=1e-6)
    assert judge(one, noise_band(one, score(56))) == "noise"
    assert noise_band((0.0, 0.0, 0.0), score(56)) == pytest.approx(1.959964 / 58)  # and so is no difference at all


@pytest.mark.parametrize(("right", "verdict"), [(3, "noise"), (4, "noise"), (5, "gain"), (-5, "loss"), (-4, "noise")])
def test_five_records_in_one_direction_are_the_fewest(right: int, verdict: str) -> None:
    for answers in (50, 1000, 100_000):
        share, percent = (right / answers,) * 3, (100 * right / answers,) * 3
        assert judge(share, noise_band(share, score(answers))) == verdict
        assert judge(percent, noise_band(percent, score(answers, best=100))) == verdict


def test_records_that_change_in_both_directions_would_need_a_wider_band() -> None:
    # of 1000 records 40 are right with the second model alone and 20 with the first: McNemar's variance is of 40 + 20
    whole = 1.959964 * math.sqrt(40 + 20 + 2 - 20**2 / 1002) / 1002
    assert records_band(20 / 1000, score(1000)) < 0.6 * whole  # a minimum, as its docstring says
    one_sided = 1.959964 * math.sqrt(20 + 0 + 1 - 20**2 / 1002) / 1002
    assert records_band(20 / 1000, score(1000)) == pytest.approx(one_sided)


def left_out(right: np.ndarray[Any, Any], parts: int = 20) -> tuple[float, ...]:
    """Losses, minus the share of right answers, with each part left out."""
    return tuple(-float(np.delete(right, slice(part, None, parts)).mean()) for part in range(parts))


def test_records_that_change_in_both_directions_count() -> None:
    first, second = np.zeros((2, 1000))
    drawn = np.random.default_rng(0).permutation(1000)
    second[drawn[:60]], first[drawn[60:100]] = 1, 1  # 60 right with the second alone, 40 with the first: k is 20
    before = arm("tuned", (0, 1), (-0.5, -0.5)).replace(left_out=(left_out(first), left_out(first)))
    after = arm("winner", (0, 1), (-0.52, -0.52)).replace(left_out=(left_out(second), left_out(second)))
    parts = np.array([(second - first)[part::20].mean() for part in range(20)])  # of one size, so that it is exact
    band = drawing_band(before, after, (0, 1))
    assert band == pytest.approx(t_quantile(19) * parts.std(ddof=1) / math.sqrt(20))
    assert band == pytest.approx(t_quantile(19) * math.sqrt((100 - 20**2 / 1000) / 1000**2), rel=0.35)  # McNemar's
    assert drawing_band(before, before, (0, 1)) == 0
    assert drawing_band(before, arm("winner", (0, 1), (-0.52, -0.52)), (0, 1)) == 0  # of an older study


def test_a_gain_that_is_the_balance_of_many_changes_is_noise() -> None:
    first, second = np.zeros((2, 1000))
    second[:120], first[120:220] = 1, 1
    seeds, losses = (0, 1, 2), {"tuned": (-0.5,) * 3, "winner": (-0.52,) * 3}
    plain = [arm(name, seeds, each) for name, each in losses.items()]
    assert difference("attention", *plain, measure=score(1000)).verdict == "gain"
    drawn = np.random.default_rng(1).permutation(1000)
    full = [
        one.replace(left_out=(left_out(each[drawn]),) * 3) for one, each in zip(plain, (first, second), strict=True)
    ]
    found = difference("attention", *full, measure=score(1000))
    assert found.verdict == "noise" and found.band == drawing_band(*full, seeds)


def test_losses_and_wide_bands_are_as_ever() -> None:
    assert records_band(0.5, Measure()) == 0
    wide = (0.0, 0.05, 0.1)
    assert noise_band(wide, score(10_000)) == noise_band(wide, Measure()) == noise_band(wide)
    assert math.isfinite(records_band(7.0, score(3)))  # a gain beyond all records, as prices may make it


def test_a_difference_takes_its_band_from_what_judges() -> None:
    before, after = arm("tuned", (0, 1, 2), (-0.5, -0.5, -0.5)), arm("winner", (0, 1, 2), (-0.52, -0.52, -0.52))
    assert difference("attention", before, after).verdict == "gain"
    found = difference("attention", before, after, measure=score(100))
    assert found.verdict == "noise"
    assert found.band == pytest.approx(records_band(0.02, score(100)))


def arm(name: str, seeds: tuple[int, ...], losses: tuple[float, ...]) -> ArmResult:
    return ArmResult(name=name, attention="heads=4", seeds=seeds, losses=losses)


def test_difference_pairs_by_seed_whatever_the_order() -> None:
    before = arm("tuned", (0, 1, 2), (1.70, 1.80, 1.90))
    after = arm("winner", (2, 0, 1), (1.84, 1.66, 1.75))
    found = difference("attention", before, after, detail="x -> y")
    assert found.gains == pytest.approx((0.04, 0.05, 0.06))
    assert found.gain == pytest.approx(0.05)
    assert found.band == pytest.approx(0.0248414, abs=1e-6)
    assert (found.verdict, found.seeds, found.detail) == ("gain", (0, 1, 2), "x -> y")


def test_difference_uses_only_shared_seeds() -> None:
    found = difference("tuning", arm("a", (0, 1, 2), (2.0, 2.1, 2.2)), arm("b", (1, 5), (2.0, 9.0)))
    assert found.seeds == (1,)
    assert found.gains == pytest.approx((0.1,))
    assert found.band is None
    assert found.verdict == "noise"
    assert not found.enough_seeds


def test_difference_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(StudyError, match="share no seed"):
        difference("tuning", arm("a", (0,), (2.0,)), arm("b", (1,), (2.0,)))
    with pytest.raises(StudyError, match="'b' holds a seed twice"):
        difference("tuning", arm("a", (0,), (2.0,)), arm("b", (0, 0), (2.0, 3.0)))


def test_pareto_by_hand() -> None:
    costs = [3.0, 1.0, 2.0, 2.0, 4.0, 1.0]
    losses = [1.0, 3.0, 2.0, 2.5, 1.0, 3.0]
    # (1, 3) twice, (2, 2), (3, 1); (2, 2.5) loses to (2, 2), and (4, 1) to (3, 1)
    assert pareto_indices(costs, losses) == (1, 5, 2, 0)
    assert pareto_indices([], []) == ()


def trial(number: int, loss: float, speed: float | None, status: Status = "complete") -> TrialRecord:
    return TrialRecord(
        number=number,
        stage="parameters",
        arm="candidate",
        status=status,
        loss=loss,
        parameters=number * 100,
        tokens_per_second=speed,
        reason="" if status == "complete" else "because",
    )


def test_front_of_trials_knows_that_speed_is_good_and_skips_the_unmeasured() -> None:
    trials = [
        trial(1, 2.0, 100.0),
        trial(2, 1.8, 50.0),
        trial(3, 1.9, 40.0),
        trial(4, 1.0, None),
        trial(5, 0.5, 500.0, status="pruned"),
    ]
    assert [record.number for record in pareto_front(trials, "tokens_per_second")] == [1, 2]
    assert [record.number for record in pareto_front(trials, "parameters")] == [1, 2, 4]
