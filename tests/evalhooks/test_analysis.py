"""Estimates and their uncertainty against scipy, naive resampling and numbers derived by hand."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from evalhooks.analysis import DifferenceEstimate, bootstrap_means, correlation, difference_estimate, upper_half


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, num_resamples: int = 10_000, seed: int = 0) -> DifferenceEstimate:
    draws = bootstrap_means(np.array(a) - np.array(b), num_resamples=num_resamples, rng=np.random.default_rng(seed))
    return difference_estimate(draws)


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
        result = correlation(a, b, num_resamples=10)
        assert result.pearson == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
        assert result.spearman == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)


def test_a_decreasing_curve_has_spearman_minus_1_and_a_pearson_above_it():
    x = [1.0, 2.0, 3.0, 4.0, 5.0]
    result = correlation(x, [math.exp(-value) for value in x])
    assert result.spearman == pytest.approx(-1.0)
    assert result.pearson is not None
    assert -1.0 < result.pearson < -0.8


def test_the_interval_equals_that_of_a_naive_bootstrap():
    x, y = correlated(25, 1)
    generator = random.Random(2)
    naive = []
    for _ in range(4000):
        index = generator.choices(range(25), k=25)
        naive.append(stats.pearsonr([x[i] for i in index], [y[i] for i in index])[0])
    result = correlation(x, y, num_resamples=20_000)
    assert result.ci95 == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])), abs=0.02)
    assert result.note == ""


def test_the_interval_of_a_perfect_line_has_no_width_and_no_resample_leaves_the_range():
    result = correlation([1.0, 2.0, 4.0, 9.0, 11.0], [-0.1, -0.2, -0.4, -0.9, -1.1])
    assert result.pearson == pytest.approx(-1.0)
    assert result.ci95 == pytest.approx((-1.0, -1.0))
    assert result.ci95 is not None
    assert min(result.ci95) >= -1.0


def test_resamples_without_variance_are_dropped_and_counted():
    # Three points: 3 of 27 resamples draw one point three times. Of 10000 that is 1111 give or take 31.
    result = correlation([0.1, 0.2, 0.3], [0.7, 0.1, 0.9])
    assert 1000 < int(result.note.split()[0]) < 1222
    # y takes two values; resamples from the equal three (27/64 of all) are dropped too, with the four of the lone point.
    dropped = int(correlation([1, 2, 3, 4], [0.1, 0.1, 0.1, 0.7]).note.split()[0])
    assert dropped == pytest.approx(10_000 * (81 + 1) / 256, abs=150)


def test_one_resample_without_variance_leaves_no_interval():
    results = [correlation([0.1, 0.2, 0.3], [0.7, 0.1, 0.9], num_resamples=1, seed=seed) for seed in range(40)]
    assert any(result.ci95 is None and result.pearson is not None and result.note.startswith("1 of 1") for result in results)


@pytest.mark.parametrize(
    ("x", "y", "note"),
    [
        ([], [], "0 points"),
        ([1.0, 2.0], [1.0, 2.0], "2 points"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "x constant"),
        ([1.0, 2.0, 3.0], [0.3, 0.1 + 0.2, 0.3], "y constant"),  # constant but for the last digit
        ([0.0, 0.0, 0.0], [5.0, 5.0, 5.0], "x and y constant"),
    ],
)
def test_where_correlation_is_undefined_nothing_is_estimated_and_the_note_says_why(x: list[float], y: list[float], note: str) -> None:
    result = correlation(x, y)
    assert (result.pearson, result.spearman, result.ci95, result.n) == (None, None, None, len(x))
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


def test_bootstrap_means_have_the_moments_of_a_mean_and_span_several_chunks():
    # Mean 0.3; standard deviation sqrt(0.3 * 0.7 / 1000) = 0.01449; 3000 resamples of 1000 need three chunks.
    values = np.array([1.0] * 300 + [0.0] * 700)
    draws = bootstrap_means(values, num_resamples=3000, rng=np.random.default_rng(0))
    assert draws.shape == (3000,)
    assert np.mean(draws) == pytest.approx(0.3, abs=0.001)
    assert np.std(draws) == pytest.approx(0.01449, rel=0.05)


def test_the_paired_difference_and_its_interval_by_hand():
    # 60 rows won by a, 40 by b, 100 drawn: mean 0.1, standard deviation sqrt(0.5 - 0.01) = 0.7, of the mean 0.7/sqrt(200) = 0.0495.
    credits_a = [1.0] * 60 + [0.0] * 40 + [1.0] * 100
    credits_b = [0.0] * 60 + [1.0] * 40 + [1.0] * 100
    result = paired_bootstrap(credits_a, credits_b)
    assert result.ci95 == pytest.approx((0.1 - 1.96 * 0.0495, 0.1 + 1.96 * 0.0495), abs=0.008)
    # z = 0.1 / 0.0495 = 2.02; two-sided 0.043. A draw of exactly 0 counts on both sides, which adds about 0.002 each.
    assert result.p_value == pytest.approx(0.046, abs=0.012)


def test_pairing_removes_the_difficulty_of_the_rows_from_the_comparison():
    generator = random.Random(0)
    difficulty = [float(generator.random() < 0.5) for _ in range(300)]
    better = [max(value, float(generator.random() < 0.06)) for value in difficulty]
    paired = paired_bootstrap(better, difficulty)
    shuffled = paired_bootstrap(better, generator.sample(difficulty, 300))
    assert paired.p_value < 0.01 < shuffled.p_value
    assert paired.ci95[0] > 0 > shuffled.ci95[0]


def test_swapping_the_models_mirrors_the_result():
    generator = random.Random(1)
    a, b = [generator.random() for _ in range(80)], [generator.random() + 0.1 for _ in range(80)]
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert back.ci95 == pytest.approx((-forth.ci95[1], -forth.ci95[0]))
    assert back.p_value == forth.p_value


def test_equal_credits_are_no_evidence_and_a_gap_on_every_row_is_all_a_bootstrap_can_give():
    same = paired_bootstrap([1 / 3, 0.25, 1.0], [1 / 3, 0.25, 1.0])
    assert (same.ci95, same.p_value, same.excludes_zero) == ((0.0, 0.0), 1.0, False)
    gap = paired_bootstrap([1.0] * 5, [0.0] * 5, num_resamples=999)
    assert (gap.ci95, gap.excludes_zero) == ((1.0, 1.0), True)
    assert gap.p_value == pytest.approx(2 / 1000)


def test_a_mean_that_misses_zero_by_rounding_lies_on_both_sides():
    # Differences 1/3, 1/3, -1/3, -1/3 (and 0.1 + 0.2 - 0.3 = 5.6e-17 on all): with half of the draws at 0, p must stay at 1.
    a, b = [1 / 3 + 0.1 + 0.2, 1 / 3 + 0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 1 / 3 + 0.1 + 0.2, 1 / 3 + 0.1 + 0.2]
    assert paired_bootstrap(a, b).p_value == 1.0


def test_p_values_of_equal_models_are_below_5_percent_about_as_often_as_they_should():
    generator = random.Random(5)
    p_values = []
    for _ in range(200):
        a, b = ([float(generator.random() < 0.5) for _ in range(100)] for _ in range(2))
        p_values.append(paired_bootstrap(a, b, num_resamples=400).p_value)
    # Binomial(200, 0.05): 10 give or take 3.1.
    assert 2 <= sum(p < 0.05 for p in p_values) <= 20


def test_too_few_resamples_are_an_error():
    with pytest.raises(ValueError, match="num_resamples is 0"):
        correlation([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], num_resamples=0)


def test_results_depend_on_the_seed_alone():
    x, y = correlated(12, 4)
    assert correlation(x, y, seed=1) == correlation(x, y, seed=1)
    assert correlation(x, y, seed=1).ci95 != correlation(x, y, seed=2).ci95
    assert paired_bootstrap(x, y, seed=1) == paired_bootstrap(x, y, seed=1)
