"""What is measured of reward models on a pool, by numbers that can be worked out by hand."""

import math
import random
from typing import Any

import pytest

from bon.ensembles import deviation, ensembles, standardised
from bon.estimators import best_of_n, best_of_n_curve, kl_of_best_of_n
from bon.rows import PoolRow
from bon.selection import Estimate, auc_of, average, estimate, gamma_of, score_curve, select
from core.records import user


def row(*correct: float, texts: str = "") -> PoolRow:
    return PoolRow(id="1", prompt=user("?"), completions=tuple(texts or "abcdefgh"[: len(correct)]), correct=correct)


def about(value: float, error: float | None) -> Estimate:
    near: tuple[Any, Any] = (pytest.approx(value, abs=1e-9), None if error is None else pytest.approx(error, abs=1e-9))
    return Estimate(value=near[0], error=near[1])


@pytest.mark.parametrize("num_levels", [1, 2, 4, 1000])
def test_the_curve_is_the_estimator_for_every_n(num_levels: int) -> None:
    draw = random.Random(num_levels)
    for _ in range(25):
        total = draw.randint(1, 8)
        scores = [float(draw.randrange(num_levels)) for _ in range(total)]
        correct = [draw.choice((0.0, 0.25, 1.0)) for _ in range(total)]
        assert best_of_n_curve(scores, correct) == pytest.approx([best_of_n(scores, correct, n) for n in range(1, total + 1)], abs=1e-12)


def test_a_task_is_measured_for_every_n_beside_chance_a_perfect_reward_and_votes() -> None:
    # Two prompts of three completions. The reward picks by 3 > 2 > 1: right in the first (n=3: 1), wrong in the second (0).
    #   n=1: 1/3, 1/3. n=2: {3,2} {3,1} {2,1} pick 1, 1, 0 = 2/3 and 0, 0, 0. So 1/3, 1/3, 1/2.
    # The oracle: 1/3, 2/3, 1 for both. Votes: in the first all answers differ: 1/3 for all n. In the second x twice (wrong) and y (right):
    #   n=1 1/3; n=2 {xx} 0, {xy} twice 1/2: 1/3; n=3: 0.
    rows = [row(1, 0, 0), row(0, 0, 1, texts="xxy")]
    found = select(rows, {"rm": [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]}, answer_of=str)
    # Without a spread: Wilson's error of 2 of 2, a half of 1 - 2 / (2 + 1.96^2) over 1.96 or 0.168, times 1 - 1/3.
    assert (found.num_prompts, found.n) == (2, 3)
    assert (found.random.value, found.random.error) == (pytest.approx(1 / 3), pytest.approx(0.112, abs=1e-3))
    assert [one.value for one in found.oracle] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert [one.value for one in found.majority] == pytest.approx([1 / 3, 1 / 3, 1 / 6])
    signal = found.signals["rm"]
    assert [one.value for one in signal.accuracy] == pytest.approx([1 / 3, 1 / 3, 1 / 2])
    # The standard error of 1 and 0: their standard deviation, sqrt(1/2), over sqrt(2).
    assert [one.error for one in signal.accuracy] == pytest.approx([0.112, 1 / 3, 1 / 2], abs=1e-3)
    assert (found.headroom, found.regret("rm", 2)) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert signal.auc == about(0.5, 0.5)
    assert signal.variance == pytest.approx(2 / 3)


def test_a_vote_is_weighted_by_the_exponential_of_standardised_scores() -> None:
    # x twice at score 0, y once at 3: the deviation within the prompt is sqrt(2), so y weighs e^(3/sqrt 2) = 8.3 against 2.
    found = select([row(0, 0, 1, texts="xxy")], {"rm": [[0.0, 0.0, 3.0]], "flat": [[1.0, 1.0, 1.0]]}, answer_of=str)
    assert found.signals["rm"].vote[2].value == 1.0
    assert found.signals["flat"].vote == found.majority
    # The scale of the scores does not count.
    assert select([row(0, 0, 1, texts="xxy")], {"rm": [[5.0, 5.0, 305.0]]}, answer_of=str).signals["rm"].vote == found.signals["rm"].vote


def test_a_nan_picks_nothing_right_and_is_counted() -> None:
    found = select([row(1, 1), row(1, 1)], {"rm": [[math.nan, 1.0], [2.0, 1.0]]}, answer_of=str).signals["rm"]
    assert ([one.value for one in found.accuracy], [one.value for one in found.vote], found.num_broken) == ([0.5, 0.5], [0.5, 0.5], 1)


def test_every_n_goes_up_to_the_smallest_pool() -> None:
    assert select([row(1, 0, 0), row(1, 0)], {}, answer_of=str).n == 2


def test_a_pool_without_correctness_is_refused() -> None:
    with pytest.raises(ValueError, match="some of its prompts have none"):
        select([row(1, 0), PoolRow(id="2", prompt=user("?"), completions=("a", "b"))], {}, answer_of=str)


def test_the_auc_is_a_mean_over_prompts_with_both_kinds_and_ties_count_half() -> None:
    # Pairs (right, wrong): 2 > 1 and 2 = 2 give 3/4; the second prompt's 0 < 5 gives 0; the third has no wrong one.
    assert auc_of([[2.0, 1.0, 2.0], [0.0, 5.0], [1.0, 2.0]], [[1, 0, 0], [1, 0], [1, 1]]) == about(3 / 8, 3 / 8)
    assert auc_of([[1.0, 2.0]], [[1, 1]]) is None


def test_half_right_counts_as_right_for_the_auc() -> None:
    assert auc_of([[2.0, 1.0]], [[0.5, 0.0]]) == about(1.0, None)


def test_the_error_of_gamma_is_the_jackknifes_over_prompts() -> None:
    scores, correct = [[3.0, 1.0, 2.0], [0.0, 2.0, 5.0], [1.0, 4.0, 0.5], [2.0, 2.5, 1.0]], [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]
    without = [gamma_of(scores[:k] + scores[k + 1 :], correct[:k] + correct[k + 1 :], 3) for k in range(4)]
    values = [one.value for one in without if one is not None]
    middle = sum(values) / 4
    found = gamma_of(scores, correct, 3)
    assert found is not None
    assert found.error == pytest.approx(math.sqrt(3 / 4 * sum((value - middle) ** 2 for value in values)))


def test_gamma_is_the_area_between_the_curves_over_kl() -> None:
    # One prompt, scores 1 and -1 (deviation 1), the wrong one on top (deviation 1/2). n=2 picks it for certain: the proxy rises by
    # 1 - 0 = 1 deviation, correctness falls from 1/2 to 0, by 1 deviation. Over KL from 0 to log 2 - 1/2 the gap grows from 0 to 2.
    expected = 2 * kl_of_best_of_n(2) / 2
    assert gamma_of([[1.0, -1.0]], [[0.0, 1.0]], 2) == about(expected, None)
    found = gamma_of([[1.0, -1.0]] * 3, [[0.0, 1.0]] * 3, 2)
    assert found == about(expected, 0.0)


def test_correctness_at_any_scale_has_no_gamma_and_noise_has_one() -> None:
    draw = random.Random(2)
    correct = [[float(draw.random() < 0.4) for _ in range(6)] for _ in range(40)]
    perfect = gamma_of([[7 * label - 3 for label in labels] for labels in correct], correct, 6)
    noise = gamma_of([[draw.random() for _ in labels] for labels in correct], correct, 6)
    assert perfect is not None
    assert noise is not None
    assert noise.error is not None
    assert perfect.value == pytest.approx(0.0, abs=1e-12)
    assert noise.value > 3 * noise.error > 0
    assert gamma_of([[1.0, 1.0]], [[1.0, 0.0]], 2) is None  # scores that do not differ


def test_an_ensemble_compares_members_by_their_deviation_within_prompts() -> None:
    # Deviations within prompts: a's is 1 (prompts of +-1), b's is 10. Offsets of a prompt go.
    a, b = [[1.0, -1.0], [101.0, 99.0]], [[-10.0, 10.0], [10.0, -10.0]]
    assert (deviation(a), deviation(b)) == (1.0, 10.0)
    assert standardised(a) == [[1.0, -1.0], [1.0, -1.0]]
    found = ensembles({"a": a, "b": b})
    assert found == {
        "ensemble-mean": [[0.0, 0.0], [1.0, -1.0]],
        "ensemble-min": [[-1.0, -1.0], [1.0, -1.0]],
        "ensemble-mean-std": [[-1.0, -1.0], [1.0, -1.0]],  # their deviation is 1 where they disagree
    }
    assert ensembles({"a": a}) == {}


def test_an_ensemble_is_lowered_by_the_deviation_of_its_members_and_not_by_their_variance() -> None:
    found = ensembles({"a": [[1.0, -1.0]], "b": [[1.0, -1.0]], "c": [[-1.0, 1.0]]})
    # Members say 1, 1 and -1: mean 1/3, population deviation sqrt(1 - 1/9) = 0.942809.
    assert found["ensemble-mean-std"][0] == pytest.approx([1 / 3 - 0.942809, -1 / 3 - 0.942809], abs=1e-6)


def test_an_ensemble_with_a_nan_in_one_member_has_it_too() -> None:
    found = ensembles({"a": [[math.nan, 1.0]], "b": [[1.0, 2.0]]})
    assert all(math.isnan(rows[0][0]) for rows in found.values())


def test_prompts_that_are_all_right_or_all_wrong_leave_room_for_the_next_one() -> None:
    # Wilson's interval of 8 of 8 is 8 / (8 + 1.96^2) = 67.6% to 100%: as wide as one of a normal error of 8.28%.
    near: Any = pytest.approx(0.0828, abs=1e-4)
    assert estimate([1.0] * 8) == Estimate(value=1.0, error=near)
    assert estimate([0.0] * 8) == Estimate(value=0.0, error=near)
    assert estimate([0.5] * 8).error == pytest.approx(0.0414, abs=1e-4)  # prompts of another kind would change it by half as much
    assert score_curve([[1.0, 1.0]] * 8, 2) == (Estimate(value=1.0, error=0.0),) * 2  # scores are no shares


def test_the_error_does_not_jump_where_the_last_prompts_become_right() -> None:
    whole = estimate([1.0] * 8).error
    assert whole is not None
    for values in ([1.0] * 7 + [0.99], [0.999] * 8, [0.01] + [0.0] * 7):
        assert estimate(values).error == pytest.approx(whole, rel=0.01)
    # One wrong prompt of eight: a variance of 1/8, over eight prompts, is an error of 1/8, which is its own and above the least one.
    assert estimate([1.0] * 7 + [0.0]).error == pytest.approx(1 / 8)


def test_the_average_over_tasks_adds_their_variances() -> None:
    assert average([Estimate(value=0.2, error=0.3), Estimate(value=0.6, error=0.4)]) == Estimate(value=0.4, error=0.25)
    assert average([estimate([1.0]), estimate([0.0, 1.0])]).error is None
