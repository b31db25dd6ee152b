"""The pick: its probability by simulation, its choice where errors and groups differ, and what it refuses."""

import numpy as np
import pytest

from benchmarks.pick import WORLDS, calibration_error, study
from evalhooks.analysis import pick as picks
from evalhooks.analysis.pick import Candidate, pick


def test_without_results_two_equal_errors_give_the_normal_probability() -> None:
    # With much spread between many others, two scores 1 apart with errors 1: P = Phi(1 / sqrt(2)) = 0.760.
    others = [Candidate(score=float(score), error=1.0) for score in range(-400, 0, 40)]
    found = pick([Candidate(score=101.0, error=1.0), Candidate(score=100.0, error=1.0), *others])
    assert (found.index, found.slope, found.num_measured) == (0, None, 0)
    assert found.probability == pytest.approx(0.760, abs=0.03)
    assert sum(found.probabilities) == pytest.approx(1.0)
    # E[max] - E[first] of a normal difference with mean 1 and deviation sqrt(2): phi(d) s - m (1 - Phi(d)), d = 1 / sqrt(2) = 0.199.
    assert found.regret == pytest.approx(0.199, abs=0.04)


def test_a_high_score_with_a_large_error_gives_way_to_one_that_is_sure() -> None:
    others = [Candidate(score=50.0 + place, error=0.5) for place in range(10)]
    found = pick([Candidate(score=66.0, error=12.0), Candidate(score=65.0, error=0.5), *others])
    assert (found.index, found.highest) == (1, 0)
    assert found.regret < found.highest_regret


def test_the_lineage_whose_results_were_worse_gives_way() -> None:
    rng = np.random.default_rng(0)
    past = [
        Candidate(score=60.0 + k, group=group, measured=50 + 0.5 * k - 6 * (group == "other") + rng.normal(0, 0.3), measured_error=0.3)
        for k in range(6)
        for group in ("own", "other")
    ]
    found = pick([Candidate(score=70.0, group="other"), Candidate(score=67.0, group="own")], past=past)
    assert (found.index, found.highest) == (1, 0)
    assert found.probability > 0.9


def test_equal_errors_in_one_group_leave_the_highest_score_whatever_the_relation() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        past = [Candidate(score=rng.normal(60, 5), error=2.0, measured=rng.normal(50, 3)) for _ in range(8)]
        new = [Candidate(score=rng.normal(60, 5), error=2.0) for _ in range(5)]
        found = pick(new, past=past)
        assert found.index == found.highest
        assert found.slope is not None
        assert found.slope >= 0


def test_a_measured_result_outweighs_the_score() -> None:
    measured = [Candidate(score=60.0 + k, measured=50.0 + k, measured_error=0.1) for k in range(8)]
    found = pick([*measured, Candidate(score=61.0, measured=70.0, measured_error=0.1)])
    assert found.index == 8
    assert found.probability > 0.99


def test_hundreds_of_reward_models_are_drawn_from_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=40)
    candidates = [
        Candidate(score=score, error=0.3, group="one", measured=2 * score if place % 4 == 0 else None, measured_error=0.1)
        for place, score in enumerate(scores.tolist())
    ]
    few = pick(candidates)
    monkeypatch.setattr(picks, "_MANY", 5)
    many = pick(candidates)
    assert many.probabilities != few.probabilities  # by other draws
    assert (many.index, many.expected) == (few.index, pytest.approx(few.expected, abs=1e-9))
    # 4,000 draws leave a share near a half with a standard error of 0.008, and the difference of two with 0.011.
    assert many.probabilities == pytest.approx(few.probabilities, abs=0.04)
    assert many.regrets == pytest.approx(few.regrets, abs=0.05)


def test_nothing_to_pick_and_numbers_that_are_not_finite_are_errors() -> None:
    with pytest.raises(ValueError, match="no reward model to pick"):
        pick([])
    with pytest.raises(ValueError, match="scores hold numbers that are not finite"):
        pick([Candidate(score=float("nan"))])
    only = pick([Candidate(score=3.0)])
    assert (only.probability, only.regret) == (1.0, pytest.approx(0.0, abs=0.05))


def test_stated_probabilities_come_true_and_the_highest_score_loses_no_less() -> None:
    # `python -m benchmarks.pick` does 2,000; of 40 the share has a standard error of 0.08.
    rng = np.random.default_rng(3)
    outcomes = [study(WORLDS[number % len(WORLDS)], rng) for number in range(40)]
    stated, right = np.mean([o.probability for o in outcomes]), np.mean([o.right for o in outcomes])
    assert abs(stated - right) < 0.2
    assert np.mean([o.regret for o in outcomes]) < np.mean([o.highest_regret for o in outcomes])
    assert calibration_error(outcomes, bins=1) == pytest.approx(abs(stated - right))


def test_where_standard_errors_differ_the_pick_is_expected_to_give_more_than_the_highest_score() -> None:
    # Whoever knows the simulation saves about 0.13 points there; 60 studies tell that from 0, as results, which scatter, would not.
    rng = np.random.default_rng(1)
    [world] = [world for world in WORLDS if world.unequal_errors and not world.lineages]
    outcomes = [study(world, rng, seed=number) for number in range(60)]
    saved = np.array([outcome.saved for outcome in outcomes])
    assert saved.mean() > 2 * saved.std() / len(saved) ** 0.5
    assert all(outcome.saved <= outcome.possible for outcome in outcomes)
    assert saved.mean() > 0.6 * np.mean([outcome.possible for outcome in outcomes])
