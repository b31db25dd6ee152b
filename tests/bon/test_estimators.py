"""The best-of-n estimator against the average over every subset of the pool."""

import math
import random
from collections.abc import Sequence
from itertools import combinations

import pytest

from bon.estimators import best_of_n, kl_of_best_of_n, mean, oracle_of_n


def by_enumeration(scores: Sequence[float], correct: Sequence[float], n: int) -> float:
    """The mean over all n-subsets of the correctness of the best; of equally good ones each is chosen equally often."""
    outcomes = []
    for subset in combinations(range(len(scores)), n):
        best = max(scores[i] for i in subset)
        chosen = [correct[i] for i in subset if scores[i] == best]
        outcomes.append(sum(chosen) / len(chosen))
    return sum(outcomes) / len(outcomes)


def test_the_mean_sums_from_left_to_right() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
    # 1e16 + 1 rounds to 1e16, so the 1 is lost on the way; an exactly rounded sum would keep it.
    assert mean([1e16, 1.0, -1e16]) == 0.0


def test_best_of_two_out_of_three_is_the_one_derived_by_hand() -> None:
    # Scores 3 > 2 > 1, of which only the second is correct. Pairs: {3,2} picks a wrong one, {3,1} a wrong one, {2,1} the
    # correct one: 1/3.
    assert best_of_n([1.0, 3.0, 2.0], [0.0, 0.0, 1.0], 2) == pytest.approx(1 / 3, abs=1e-12)


@pytest.mark.parametrize("num_levels", [1, 2, 4, 1000])
def test_the_estimate_is_the_average_over_all_subsets_with_few_or_many_ties(num_levels: int) -> None:
    draw = random.Random(num_levels)
    for _ in range(25):
        total = draw.randint(1, 8)
        scores = [float(draw.randrange(num_levels)) for _ in range(total)]
        correct = [draw.choice((0.0, 0.25, 1.0)) for _ in range(total)]
        for n in range(1, total + 1):
            assert best_of_n(scores, correct, n) == pytest.approx(by_enumeration(scores, correct, n), abs=1e-12)


def test_best_of_one_is_the_mean_and_best_of_all_is_the_top_completion() -> None:
    scores, correct = [0.3, -math.inf, 9.0, 2.0], [1.0, 1.0, 0.5, 0.0]
    assert best_of_n(scores, correct, 1) == pytest.approx(0.625, abs=1e-12)
    assert best_of_n(scores, correct, 4) == 0.5


def test_equal_scores_at_the_top_share_the_choice() -> None:
    # Two of the three top ones are correct.
    assert best_of_n([5.0, 5.0, 5.0, 1.0], [1.0, 1.0, 0.0, 0.0], 4) == pytest.approx(2 / 3, abs=1e-12)


def test_the_oracle_is_pass_at_n() -> None:
    # 2 of 5 are correct: 1 - C(3, n) / C(5, n) = 2/5, 7/10, 9/10, 1, 1.
    for n, expected in enumerate((0.4, 0.7, 0.9, 1.0, 1.0), 1):
        assert oracle_of_n([0.0, 1.0, 0.0, 1.0, 0.0], n) == pytest.approx(expected, abs=1e-12)


def test_no_reward_beats_the_oracle() -> None:
    draw = random.Random(5)
    for _ in range(50):
        scores, correct = [draw.random() for _ in range(6)], [float(draw.random() < 0.4) for _ in range(6)]
        assert all(best_of_n(scores, correct, n) <= oracle_of_n(correct, n) + 1e-12 for n in range(1, 7))


@pytest.mark.parametrize(("scores", "correct", "n"), [([1.0], [1.0], 2), ([1.0], [1.0], 0), ([1.0, 2.0], [1.0], 1), ([], [], 1)])
def test_a_pool_that_is_too_small_or_lacks_labels_is_refused(scores: list[float], correct: list[float], n: int) -> None:
    with pytest.raises(ValueError, match=rf"best-of-{n} needs 1 <= n <= the pool's size, which is {len(scores)} scores"):
        best_of_n(scores, correct, n)


def test_a_nan_score_is_refused() -> None:
    with pytest.raises(ValueError, match="score is NaN"):
        best_of_n([1.0, math.nan], [1.0, 0.0], 1)


def test_the_kl_of_best_of_n_is_that_of_the_distribution_it_draws_from() -> None:
    # n = 2: log 2 - 1/2 = 0.193147...; n = 16: log 16 - 15/16 = 1.835089 nats.
    assert kl_of_best_of_n(1) == 0.0
    assert kl_of_best_of_n(2) == pytest.approx(0.193147, abs=1e-6)
    assert kl_of_best_of_n(16) == pytest.approx(1.835089, abs=1e-6)
    # Independently: the best of n uniform scores has the density n u^(n-1), and KL is the mean of its logarithm.
    steps = 100_000
    grid = [(i + 0.5) / steps for i in range(steps)]
    integral = sum(5 * u**4 * math.log(5 * u**4) for u in grid) / steps
    assert kl_of_best_of_n(5) == pytest.approx(integral, abs=1e-6)
