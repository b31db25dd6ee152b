"""Estimates and their uncertainty against scipy, naive resampling and numbers derived by hand."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from evalhooks.analysis import DifferenceEstimate, bootstrap_means, correlation, difference_estimate, sign_flip_estimate, upper_half


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
    assert result.note == ""


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
    assert (result.ci95, result.spearman_ci95, result.note) == (None, None, "3 points; an interval needs 4.")


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
        ([], [], "0 points"),
        ([1.0, 2.0], [1.0, 2.0], "2 points"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "x constant"),
        ([1.0, 2.0, 3.0], [0.3, 0.1 + 0.2, 0.3], "y constant"),  # constant but for the last digit
        ([0.0, 0.0, 0.0], [5.0, 5.0, 5.0], "x and y constant"),
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


def exact(*differences: float) -> tuple[DifferenceEstimate | None, float]:
    n = len(differences)
    return sign_flip_estimate(np.array(differences) / n, np.full(n, 1 / n), num_resamples=1, rng=np.random.default_rng(0))


def test_few_rows_have_the_p_value_of_a_sign_test_and_below_six_no_interval():
    # n differences of one size in one direction: 2 of 2^n signs are as far out.
    for n in range(2, 20):
        estimate, p_value = exact(*[1.0] * n)
        assert p_value == 2 / 2**n
        assert (estimate is None) == (n < 6)
        if estimate is not None:
            assert estimate.ci95 == pytest.approx((1.0, 1.0))
            assert estimate.excludes_zero == (p_value < 0.05)
    assert exact(1.0, 1.0, 1.0)[1] == 0.25
    # 7 won, 1 lost: scipy's sign test.
    assert exact(*[1.0] * 7, -1.0)[1] == pytest.approx(stats.binomtest(7, 8).pvalue)
    # Rows without a difference say nothing of the sign.
    assert exact(*[1.0] * 7, -1.0, *[0.0] * 9)[1] == pytest.approx(stats.binomtest(7, 8).pvalue)


def test_the_exact_p_value_is_scipys_permutation_test_and_the_interval_is_what_it_does_not_reject():
    generator = random.Random(3)
    differences = [generator.gauss(0.4, 1) for _ in range(9)]

    def p_of(shifted: Sequence[float]) -> float:
        return float(stats.permutation_test((shifted,), np.mean, permutation_type="samples", n_resamples=1024).pvalue)

    estimate, p_value = exact(*differences)
    assert p_value == pytest.approx(p_of(differences))
    assert estimate is not None
    for end, outwards in zip(estimate.ci95, (-1, 1), strict=True):
        assert (
            p_of([d - end + 1e-6 * -outwards * -1 for d in differences]) > 0.05
            or p_of([d - end - 1e-6 * outwards for d in differences]) <= 0.05
        )
        assert p_of([d - end - 1e-3 * outwards for d in differences]) <= 0.05
        assert p_of([d - end + 1e-3 * outwards for d in differences]) > 0.05


def test_a_heavy_row_counts_by_its_weight_and_equal_differences_have_no_width():
    weights = np.array([0.5, *[0.1] * 5])
    estimate, p_value = sign_flip_estimate(0.3 * weights, weights, num_resamples=1, rng=np.random.default_rng(0))
    assert estimate is not None
    assert estimate.ci95 == pytest.approx((0.3, 0.3))
    # The heavy row is as much as the five others: with these it is out as far as only they, so signs that give 0 count too.
    differing = np.array([0.5, *[-0.1] * 5])
    assert sign_flip_estimate(differing, weights, num_resamples=1, rng=np.random.default_rng(0))[1] == 1.0
    assert p_value == 2 / 64


def test_many_rows_flip_signs_at_random_and_agree_with_the_bootstrap():
    generator = random.Random(5)
    differences = np.array([generator.choice([-1.0, 0.0, 0.0, 1.0, 1.0]) for _ in range(200)])
    estimate, p_value = sign_flip_estimate(differences / 200, np.full(200, 1 / 200), num_resamples=10_000, rng=np.random.default_rng(0))
    paired = paired_bootstrap(differences.tolist(), [0.0] * 200)
    assert estimate is not None
    assert estimate.ci95 == pytest.approx(paired.ci95, abs=0.03)
    assert p_value == pytest.approx(paired.p_value, abs=0.01)


@pytest.mark.parametrize("n", [6, 8, 12])
def test_equal_models_on_few_rows_are_rarely_more_than_noise(n: int) -> None:
    generator = random.Random(n)
    flagged = 0
    for _ in range(200):
        estimate, _ = exact(*(float(generator.choice([-1, 0, 1])) for _ in range(n)))
        flagged += estimate is not None and estimate.excludes_zero
    assert flagged <= 20  # 10 expected at most; a bootstrap flags 30 of n = 6


def test_results_depend_on_the_seed_alone():
    x, y = correlated(12, 4)
    assert paired_bootstrap(x, y, seed=1) == paired_bootstrap(x, y, seed=1)
