"""Two benchmarks against one downstream result: coverage, false alarms, planted winners, and regrets by enumeration."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from evalhooks.analysis.head_to_head import difference, regret, sentence


def drawn(n: int, r_a: float, r_b: float, r_ab: float, rng: np.random.Generator) -> np.ndarray:
    root = np.linalg.cholesky(np.array([[1, r_ab, r_a], [r_ab, 1, r_b], [r_a, r_b, 1]]))
    return root @ rng.standard_normal((3, n))


def test_the_interval_equals_zous_published_example() -> None:
    # Zou (2007), example 2: r12 = 0.396, r13 = 0.179, r23 = 0.088, n = 66 gives -0.093 to 0.517 for r12 - r13.
    rng = np.random.default_rng(0)
    whitened = np.linalg.qr((lambda raw: raw - raw.mean(axis=0))(rng.standard_normal((66, 3))))[0].T
    shared, a, b = np.linalg.cholesky(np.array([[1, 0.396, 0.179], [0.396, 1, 0.088], [0.179, 0.088, 1]])) @ whitened
    found = difference(a, b, shared)
    assert found.difference == pytest.approx(0.217)
    assert found.ci95 == pytest.approx((-0.093, 0.517), abs=6e-4)


@pytest.mark.parametrize(("n", "r_a", "r_b", "r_ab"), [(6, 0.7, 0.7, 0.5), (10, 0.9, 0.6, 0.7), (17, 0.0, 0.0, 0.0)])
def test_the_interval_covers_the_difference_and_equal_benchmarks_rarely_have_a_winner(n: int, r_a: float, r_b: float, r_ab: float) -> None:
    rng = np.random.default_rng(n)
    results = [difference(*drawn(n, r_a, r_b, r_ab, rng)) for _ in range(1200)]
    covered = [r.ci95 is not None and r.ci95[0] <= r_a - r_b <= r.ci95[1] for r in results]
    assert 0.93 <= np.mean(covered) <= 0.98
    if r_a == r_b:
        assert np.mean([r.better != "" for r in results]) <= 0.075


def test_a_planted_winner_is_found_whichever_place_it_has() -> None:
    rng = np.random.default_rng(1)
    results = [difference(*drawn(40, 0.95, 0.5, 0.5, rng)) for _ in range(100)]
    assert sum(r.better == "a" for r in results) >= 98
    results = [difference(*drawn(40, 0.5, 0.95, 0.5, rng)) for _ in range(100)]
    assert sum(r.better == "b" for r in results) >= 98


def test_few_reward_models_cannot_tell_and_the_sentence_says_n() -> None:
    found = difference([1, 2], [2, 1], [1, 2])
    assert found.ci95 is None
    assert sentence(found, "rb1", "rb2", "ppo").startswith(
        "For ppo: cannot tell with n = 2 whether rb1 or rb2 predicts it better: 2 reward models have"
    )
    found = difference([1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3])
    assert "an interval needs 5" in sentence(found, "rb1", "rb2", "ppo")
    found = difference([1, 1, 1, 1, 1], [1, 3, 2, 4, 5], [1, 2, 4, 3, 5])
    assert "A is the same for all 5" in sentence(found, "rb1", "rb2", "ppo")


def test_a_perfect_benchmark_beats_noise_and_its_own_copy_does_not() -> None:
    rng = np.random.default_rng(2)
    truth, noise = rng.standard_normal(20), rng.standard_normal(20)
    assert difference(truth, noise, truth).better == "a"
    same = difference(truth, 2 * truth + 1, truth)
    assert (same.difference, same.better) == (pytest.approx(0.0), "")
    twins = truth + noise
    assert difference(twins, 3 * twins, truth).better == ""


def test_the_share_in_order_is_that_of_the_pairs() -> None:
    # Pairs of results: 1 < 2 < 3. A orders all but the tie of the last two, which counts half.
    found = difference([1, 2, 2, 5, 6], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5])
    assert found.right_a == pytest.approx(9.5 / 10)
    assert found.right_b == 0.0
    assert found.ranking == pytest.approx(stats.kendalltau([1, 2, 2, 5, 6], [5, 4, 3, 2, 1])[0])


def test_regret_is_that_of_all_draws() -> None:
    scores, results = np.array([3.0, 1.0, 5.0, 5.0, 2.0, 4.0]), np.array([10.0, 30.0, 20.0, 12.0, 25.0, 5.0])
    found = regret(scores, results)
    assert (found.picked, found.points, found.chance) == ((2, 3), 30 - 16, pytest.approx(30 - 17))
    lost = []
    for drawn_ones in combinations(range(6), 5):
        kept = np.array(drawn_ones)
        top = kept[scores[kept] == scores[kept].max()]
        lost.append(results[kept].max() - results[top].mean())
    assert found.expected == pytest.approx(np.mean(lost))
    assert found.expected_chance == pytest.approx(
        np.mean([results[list(k)].max() - results[list(k)].mean() for k in combinations(range(6), 5)])
    )
    only = regret([1.0], [2.0])
    assert (only.points, only.chance, only.expected, only.among) == (0.0, 0.0, 0.0, 1)
