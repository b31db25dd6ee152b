"""Differences and their uncertainty against scipy, naive resampling and numbers derived by hand."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from evalhooks.analysis.differences import DifferenceEstimate, bootstrap_means, difference_estimate, sign_flip_estimate


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, num_resamples: int = 10_000, seed: int = 0) -> DifferenceEstimate:
    draws = bootstrap_means(np.array(a) - np.array(b), num_resamples=num_resamples, rng=np.random.default_rng(seed))
    return difference_estimate(draws)


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
    generator = random.Random(4)
    x, y = ([generator.gauss(0, 1) for _ in range(12)] for _ in range(2))
    assert paired_bootstrap(x, y, seed=1) == paired_bootstrap(x, y, seed=1)
