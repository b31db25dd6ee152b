"""Votes against brute force over every subset of the pool."""

import random
from collections.abc import Sequence
from itertools import combinations

import pytest

from bon import votes
from bon.votes import majority_curve, weighted_curve


def by_enumeration(answers: Sequence[str], weights: Sequence[float], correct: Sequence[float], n: int) -> float:
    """The mean over all n-subsets: answers of the largest sum share the choice, and the completions of an answer too."""
    outcomes = []
    for subset in combinations(range(len(answers)), n):
        sums = {answer: sum(weights[i] for i in subset if answers[i] == answer) for answer in {answers[i] for i in subset}}
        best = [answer for answer, total in sums.items() if total >= max(sums.values()) * (1 - 1e-12)]
        shares = []
        for answer in best:
            own = [correct[i] for i in subset if answers[i] == answer]
            shares.append(sum(own) / len(own))
        outcomes.append(sum(shares) / len(shares))
    return sum(outcomes) / len(outcomes)


def test_two_of_three_votes_win_and_one_each_is_a_draw() -> None:
    # "5" twice (right) and "6" once. n=1: 2/3. n=2: {5,5} right, {5,6} twice a draw of 1/2: (1 + 1/2 + 1/2) / 3. n=3: right.
    assert majority_curve(["5", "6", "5"], [1.0, 0.0, 1.0]) == pytest.approx([2 / 3, 2 / 3, 1.0], abs=1e-12)


@pytest.mark.parametrize("num_answers", [1, 2, 3, 8])
def test_the_majority_is_the_average_over_all_subsets(num_answers: int) -> None:
    draw = random.Random(num_answers)
    for _ in range(25):
        total = draw.randint(1, 8)
        answers = [str(draw.randrange(num_answers)) for _ in range(total)]
        correct = [draw.choice((0.0, 0.25, 1.0)) for _ in range(total)]  # a strict verifier may tell equal answers apart
        expected = [by_enumeration(answers, [1.0] * total, correct, n) for n in range(1, total + 1)]
        assert majority_curve(answers, correct) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_weights", [1, 2, 50])
def test_the_weighted_vote_is_the_average_over_all_subsets_with_equal_sums_shared(num_weights: int) -> None:
    draw = random.Random(num_weights)
    for _ in range(25):
        total = draw.randint(1, 8)
        answers = [str(draw.randrange(3)) for _ in range(total)]
        weights = [(1 + draw.randrange(num_weights)) / 10 for _ in range(total)]  # 0.1 + 0.2 and 0.3 are one sum
        correct = [draw.choice((0.0, 1.0)) for _ in range(total)]
        expected = [by_enumeration(answers, weights, correct, n) for n in range(1, total + 1)]
        assert weighted_curve(answers, weights, correct) == pytest.approx(expected, abs=1e-12)


def test_equal_weights_are_the_majority() -> None:
    answers, correct = list("aabbbcca"), [1.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0]
    assert weighted_curve(answers, [0.7] * 8, correct) == pytest.approx(majority_curve(answers, correct), abs=1e-12)


def test_a_large_pool_is_voted_on_by_drawn_subsets_that_a_seed_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    answers = [str(draw.randrange(4)) for _ in range(10)]
    weights, correct = [draw.random() for _ in range(10)], [float(answer in "13") for answer in answers]
    exact = weighted_curve(answers, weights, correct)  # 252 subsets of five
    monkeypatch.setattr(votes, "MAX_SUBSETS", 200)
    drawn = weighted_curve(answers, weights, correct, seed=3)
    assert drawn == pytest.approx(exact, abs=0.12)  # 200 draws: a standard error of at most 0.035
    assert list(drawn) != list(exact)
    assert list(drawn) == list(weighted_curve(answers, weights, correct, seed=3))


@pytest.mark.parametrize(("answers", "correct"), [([], []), (["a"], [])])
def test_votes_without_correctness_are_refused(answers: list[str], correct: list[float]) -> None:
    with pytest.raises(ValueError, match=f"there are {len(answers)} answers and 0 values"):
        majority_curve(answers, correct)


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite weight of 0 or above for each of 2"):
        weighted_curve(["a", "b"], [1.0, float("nan")], [1.0, 0.0])
