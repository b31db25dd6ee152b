"""Accuracy on pairs comes with its interval and calibration."""

import math

import pytest

from core.shares import wilson
from evalhooks.pair_accuracy import pair_metrics


def test_the_interval_is_wilsons() -> None:
    # 8 of 10 by hand with z = 1.96: (0.8 + 0.19208) / 1.38416 = 0.71674, half = 1.96 sqrt(0.016 + 0.009604) / 1.38416 = 0.22658.
    assert wilson(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(0.0, 10)[0] == 0.0


def test_calibration_is_the_distance_of_confidence_and_accuracy() -> None:
    # Four pairs at p = sigmoid(ln 4) = 0.8, three of them right: |0.8 - 0.75|.
    found = pair_metrics([(math.log(4), 0.0)] * 3 + [(0.0, math.log(4))])
    assert found["accuracy"] == 0.75
    assert found["calibration_error"] == pytest.approx(0.05)
    assert found["margin"] == pytest.approx(math.log(4) / 2)


def test_equal_rewards_count_half_and_rewards_far_apart_do_not_overflow() -> None:
    assert pair_metrics([(0.0, 0.0)])["accuracy"] == 0.5
    assert pair_metrics([(1e300, -1e300)])["calibration_error"] == 0.0
    assert pair_metrics([]) == {}
