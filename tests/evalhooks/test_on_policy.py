"""What a reward is worth on the policy's answers, and its gap to correctness, by hand."""

from collections.abc import Sequence

import pytest

from evalhooks.on_policy import gap, on_policy


def test_on_policy_accuracy_counts_pairs_of_right_and_wrong_and_halves_for_equal_scores() -> None:
    # Prompt 1: right 3 and 1, wrong 2 and 1: pairs 3>2, 3>1, 1<2, 1=1: 1, 1, 0, 1/2.
    # Prompt 2: right 0, wrong 5: 0. Prompt 3: all right, no pair. Altogether 2.5 of 5.
    scores = [[3.0, 1.0, 2.0, 1.0], [0.0, 5.0], [4.0, 6.0]]
    labels = [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    metrics = on_policy(scores, labels)
    # Deviations: mean 1.75, squares (1.5625 + 0.5625 + 0.0625 + 0.5625) / 4 = 0.6875; 2.5; 1.
    # Right are 2 of 4, 1 of 2 and 2 of 2: 5 of 8, with deviations 1/2, 1/2 and 0.
    assert metrics == {
        "on_policy/accuracy": pytest.approx(5 / 8, abs=1e-12),
        "on_policy/accuracy_std": pytest.approx(1 / 3, abs=1e-12),
        "on_policy/rm_score": pytest.approx(22 / 8, abs=1e-12),
        "on_policy/reward_std": pytest.approx((0.6875**0.5 + 2.5 + 1.0) / 3, abs=1e-12),
        "on_policy/rm_accuracy": pytest.approx(0.5, abs=1e-12),
    }


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([], [], {}),
        ([[2.0], [4.0]], [[1.0], [0.0]], {"rm_score": 3.0, "accuracy": 0.5}),  # one answer each: no spread and no pair
        ([[2.0, 4.0]], [[1.0, 1.0]], {"rm_score": 3.0, "reward_std": 1.0, "accuracy": 1.0, "accuracy_std": 0.0}),
        # Half right is right, less is wrong.
        ([[2.0, 4.0]], [[0.5, 0.25]], {"rm_score": 3.0, "reward_std": 1.0, "accuracy": 0.375, "accuracy_std": 0.125, "rm_accuracy": 0.0}),
    ],
)
def test_what_cannot_be_measured_is_left_out(
    scores: Sequence[Sequence[float]], labels: Sequence[Sequence[float]], expected: dict[str, float]
) -> None:
    assert on_policy(scores, labels) == {f"on_policy/{name}": value for name, value in expected.items()}


def test_the_gap_is_the_reward_s_rise_less_that_of_correctness_in_deviations_of_the_beginning() -> None:
    start = on_policy([[0.0, 4.0], [1.0, 1.0]], [[0.0, 1.0], [0.0, 0.0]])  # reward 1.5 +- 1, correctness 0.25 +- 0.25
    now = on_policy([[4.0, 5.0], [2.0, 3.0]], [[1.0, 0.0], [0.0, 0.0]])  # reward 3.5, correctness 0.25
    assert gap(now, start) == {"on_policy/gap": pytest.approx(2.0)}
    now = on_policy([[4.0, 5.0], [2.0, 3.0]], [[1.0, 1.0], [0.0, 0.0]])  # 0.5, one deviation up
    assert gap(now, start) == {"on_policy/gap": pytest.approx(1.0)}
    assert gap(start, start) == {"on_policy/gap": 0.0}


def test_a_reward_that_is_correctness_in_other_units_has_no_gap() -> None:
    def both(labels: Sequence[Sequence[float]]) -> dict[str, float]:
        offsets = (5.0, -20.0)  # a Bradley-Terry reward is free to shift with the prompt
        return on_policy([[0.3 * label + offset for label in row] for row, offset in zip(labels, offsets, strict=True)], labels)

    start, now = both([[0.0, 1.0], [0.0, 0.0]]), both([[1.0, 1.0], [1.0, 0.0]])
    assert gap(now, start) == {"on_policy/gap": pytest.approx(0.0, abs=1e-12)}


@pytest.mark.parametrize(
    "start",
    [
        {},
        on_policy([[1.0]], [[0.0]]),  # one answer each
        on_policy([[1.0, 1.0]], [[0.0, 1.0]]),  # a reward without differences
        on_policy([[1.0, 2.0]], [[1.0, 1.0]]),  # all right from the beginning
    ],
)
def test_without_a_scale_there_is_no_gap(start: dict[str, float]) -> None:
    assert gap(on_policy([[1.0, 2.0]], [[0.0, 1.0]]), start) == {}
