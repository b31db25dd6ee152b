"""Correlations and their intervals against scipy and numbers derived by hand."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from evalhooks.analysis.correlation import correlation, pearson_of, upper_half


def correlated(n: int, seed: int) -> tuple[list[float], list[float]]:
    generator = random.Random(seed)
    x = [generator.gauss(70, 5) for _ in range(n)]
    return x, [0.8 * value + generator.gauss(0, 3) for value in x]


def test_pearson_and_spearman_by_hand():
    # Deviations of x: -1.5 -0.5 0.5 1.5; of y (1 3 2 4): -1.5 0.5 -0.5 1.5. Products 2.25 - 0.25 - 0.25 + 2.25 = 4; squares 5 and 5.
    result = correlation([1, 2, 3, 4], [1, 3, 2, 4])
    assert result.pearson == pytest.approx(4 / 5)
    assert result.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert result.n == 4


@pytest.mark.parametrize("seed", range(5))
def test_point_estimates_equal_scipys_with_and_without_tied_values(seed: int) -> None:
    x, y = correlated(17, seed)
    coarse_x, coarse_y = [round(value / 4) for value in x], [round(value / 4) for value in y]
    for a, b in ((x, y), (coarse_x, coarse_y)):
        result = correlation(a, b)
        assert result.pearson == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
        assert result.spearman == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)


def test_a_decreasing_curve_has_spearman_minus_1_and_a_pearson_above_it():
    x = [1.0, 2.0, 3.0, 4.0, 5.0]
    result = correlation(x, [math.exp(-value) for value in x])
    assert result.spearman == pytest.approx(-1.0)
    assert result.pearson is not None
    assert -1.0 < result.pearson < -0.8


def test_the_intervals_equal_fishers_by_hand_and_by_scipy():
    x, y = correlated(12, 1)
    result, low_high = correlation(x, y), stats.pearsonr(x, y).confidence_interval(0.95)
    assert result.ci95 == pytest.approx((low_high.low, low_high.high), abs=1e-12)
    # Ranks 1..6 with two swaps of neighbours: 1 - 6 * 4 / (6 * 35) = 0.885714. artanh is 1.40162 and the standard error
    # sqrt((1 + 0.392245) / 3) = 0.681236, so z runs from 0.066413 to 2.736830.
    result = correlation([1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 6, 5])
    assert result.spearman == pytest.approx(1 - 6 * 4 / (6 * 35))
    assert result.spearman_ci95 == pytest.approx((math.tanh(0.066413), math.tanh(2.736830)), abs=1e-4)
    # 13 of 15 pairs in order: tau = 11 / 15, of which artanh is 0.935901, and sqrt(0.437 / 2) = 0.467440 its standard error.
    assert result.kendall == pytest.approx(11 / 15)
    assert result.kendall_ci95 == pytest.approx((math.tanh(0.019736), math.tanh(1.852066)), abs=1e-4)
    assert result.note == ""


def test_the_interval_of_kendalls_tau_by_hand():
    # One of ten pairs of five models is in the other order: tau = 0.8. artanh is 1.098612, the error sqrt(0.437 / (5 - 4)) = 0.661060, so
    # z runs from -0.197041 to 2.394266.
    result = correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    assert result.kendall == pytest.approx(0.8)
    assert result.kendall_ci95 == pytest.approx((-0.194530, 0.983488), abs=1e-6)
    # Of a perfect order half that pair: 0.9, and z from 0.176566 to 2.767873.
    perfect = correlation([1, 2, 3, 4, 5], [1, 2, 4, 8, 16])
    assert perfect.kendall == pytest.approx(1.0)
    assert perfect.kendall_ci95 == pytest.approx((0.174754, 0.992144), abs=1e-6)
    # Of six models 1 - 2 / 30: artanh 1.683648, and an error of sqrt(0.437 / 2) = 0.467440.
    assert correlation([1, 2, 3, 4, 5, 6], [1, 2, 4, 8, 16, 32]).kendall_ci95 == pytest.approx((0.645463, 0.989023), abs=1e-6)


def test_a_perfect_line_has_no_width_and_a_perfect_order_has():
    result = correlation([1.0, 2.0, 4.0, 9.0, 11.0], [-0.1, -0.2, -0.4, -0.9, -1.1])
    assert result.pearson == pytest.approx(-1.0)
    assert result.ci95 == pytest.approx((-1.0, -1.0))
    assert result.ci95 is not None
    assert min(result.ci95) >= -1.0
    assert result.spearman == pytest.approx(-1.0)
    # Five models in one order: the nearest other one would give -0.9; -0.95 stands for the two.
    assert result.spearman_ci95 == pytest.approx(
        tuple(math.tanh(-math.atanh(0.95) + side * 1.96 * math.sqrt((1 + 0.95**2 / 2) / 2)) for side in (-1, 1)), abs=1e-4
    )


def test_three_points_have_a_correlation_and_no_interval():
    result = correlation([0.1, 0.2, 0.3], [0.7, 0.1, 0.9])
    assert result.pearson is not None
    assert (result.ci95, result.spearman_ci95, result.note) == (None, None, "3 reward models; an interval needs 4.")


@pytest.mark.parametrize("n", [6, 10, 17])
def test_intervals_cover_the_true_correlation_about_95_times_in_100(n: int) -> None:
    # A percentile bootstrap covers 89 to 92. Of 3000 draws the standard error is 0.4 points.
    generator = np.random.default_rng(n)
    for rho in (0.0, 0.6, 0.9):
        true_spearman = 6 / math.pi * math.asin(rho / 2)
        x = generator.standard_normal((1000, n))
        y = rho * x + math.sqrt(1 - rho**2) * generator.standard_normal((1000, n))
        results = [correlation(a, b) for a, b in zip(x, y, strict=True)]
        covered = [r.ci95 is not None and r.ci95[0] <= rho <= r.ci95[1] for r in results]
        ranked = [r.spearman_ci95 is not None and r.spearman_ci95[0] <= true_spearman <= r.spearman_ci95[1] for r in results]
        assert 0.93 <= np.mean(covered) <= 0.97
        assert 0.92 <= np.mean(ranked) <= 0.99  # ranks of few points take few values, so no interval covers exactly


@pytest.mark.parametrize(
    ("x", "y", "note"),
    [
        ([], [], "0 reward models"),
        ([1.0, 2.0], [1.0, 2.0], "2 reward models"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "x is the same for all 3."),
        ([1.0, 2.0, 3.0], [0.3, 0.1 + 0.2, 0.3], "y is the same for all 3."),  # constant but for the last digit
        ([0.0, 0.0, 0.0], [5.0, 5.0, 5.0], "x and y do not differ among the 3."),
    ],
)
def test_where_correlation_is_undefined_nothing_is_estimated_and_the_note_says_why(x: list[float], y: list[float], note: str) -> None:
    result = correlation(x, y)
    assert (result.pearson, result.spearman, result.ci95, result.spearman_ci95, result.n) == (None, None, None, None, len(x))
    assert note in result.note


def test_shifting_and_scaling_leave_pearson_and_its_interval_alone():
    x, y = correlated(20, 3)
    plain, scaled = correlation(x, y), correlation([1e-6 * value - 7 for value in x], [1e6 * value for value in y])
    assert scaled.pearson == pytest.approx(plain.pearson)
    assert scaled.ci95 == pytest.approx(plain.ci95, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0], "equal length"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "flat series"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, math.inf], r"Entries \[1, 2\] are not finite"),
    ],
)
def test_series_that_do_not_pair_up_are_errors(x: list[float], y: list[float], message: str) -> None:
    for function in (correlation, upper_half):
        with pytest.raises(ValueError, match=message):
            function(x, y)


def test_the_upper_half_keeps_pairs_at_or_above_the_median():
    x, y = upper_half([90, 1, 3, 2, 4], [50, 10, 30, 20, 40])  # median 3, mean 20
    assert (x.tolist(), y.tolist()) == ([90, 3, 4], [50, 30, 40])
    x, y = upper_half([4, 1, 3, 2], [40, 10, 30, 20])  # median 2.5
    assert (x.tolist(), y.tolist()) == ([4, 3], [40, 30])
    assert [half.tolist() for half in upper_half([], [])] == [[], []]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_values_whose_squares_no_float_holds_have_the_correlation_of_the_same_values_at_another_scale(scale: float) -> None:
    x_N, y_N = np.array([1.0, 2.0, 4.0, 3.0]), np.array([2.0, 1.0, 5.0, 4.0])
    # Deviations -1.5, -0.5, 1.5, 0.5 and -1, -2, 2, 1: products 1.5 + 1 + 3 + 0.5 = 6, squares 5 and 10.
    assert pearson_of(scale * x_N, scale * y_N) == pytest.approx(6 / math.sqrt(50), rel=1e-12)
