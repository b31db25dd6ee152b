"""Which metrics are shares, and what their intervals and errors are beside scipy's."""

import math

import pytest
from scipy.stats import binomtest

from core.shares import in_points, is_share, standard_error, unanimous_error, wilson, with_error


@pytest.mark.parametrize(("right", "count"), [(8, 10), (0, 8), (8, 8), (1, 3), (500, 1000)])
def test_wilsons_interval_is_scipys(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_has_the_error_of_a_binomial_and_one_of_equals_that_of_wilsons_interval() -> None:
    assert standard_error(0.8, 100) == pytest.approx(0.04)  # sqrt(0.8 * 0.2 / 100)
    # Eight of eight: the interval begins at 8 / (8 + 1.96^2) = 0.6756, and is 2 * 1.96 errors wide.
    assert standard_error(1.0, 8) == standard_error(0.0, 8) == unanimous_error(8) == pytest.approx((1 - 0.6756) / 3.92, abs=1e-4)
    assert unanimous_error(800) < math.sqrt(0.01 * 0.99 / 800)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("rewardbench2/overall", True),
        ("rewardbench2_se/math", True),
        ("held_out/accuracy", True),
        ("held_out/tulu/accuracy", True),
        ("held_out/num_pairs", False),
        ("held_out/num_too_long", False),
        ("held_out/margin", False),
        ("bon/average@16", True),
        ("bon/rm/sums/gamma", False),
        ("downstream/average", True),
        ("on_policy/accuracy", True),
        ("on_policy/reward_std", False),
        ("train/accuracy", True),
        ("rm_score", False),
    ],
)
def test_shares_are_told_from_counts_and_from_rewards(metric: str, expected: bool) -> None:
    assert is_share(metric) is expected


def test_a_share_is_shown_in_points_and_a_count_as_it_is() -> None:
    assert (in_points("held_out/accuracy", 0.6125), in_points("held_out/num_pairs", 250.0)) == ("61.3", "250")


def test_a_share_of_all_stands_beside_an_error_that_is_not_nothing() -> None:
    assert with_error(1.0, standard_error(1.0, 8)) == "100.0 +- 8.3"
    assert (with_error(0.5, 0.0125, "±"), with_error(0.5, None)) == ("50.0 ± 1.2", "50.0")
