"""The win rate at equal lengths: what a judge's taste for length adds is taken out, and nothing else is."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from core.records import Completion, Prompt, user
from evalhooks.tasks.length_control import length_controlled
from evalhooks.tasks.results import Answered, at_equal_lengths
from evalhooks.tasks.task import Judged, Task


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def root_of(function: Callable[[float], float], low: float, high: float) -> float:
    found: Any = brentq(function, low, high, xtol=1e-13)
    return found


def two_lengths(wins_longer: int, wins_shorter: int, each: int) -> float | None:
    """As many answers 50 characters longer than the baseline as 50 shorter ones, some of either winning."""
    wins = [1.0] * wins_longer + [0.0] * (each - wins_longer) + [1.0] * wins_shorter + [0.0] * (each - wins_shorter)
    return length_controlled(wins, [150] * each + [50] * each, [100] * 2 * each)


def test_with_two_lengths_it_is_between_the_rates_of_both_in_logits() -> None:
    # d / sigma is 1 or -1, so the model is saturated: its logits are theta + phi tanh 1 = logit 0.8 = log 4 and theta - phi tanh 1 =
    # logit 0.4 = log 2/3, and theta is half their sum. With 100,000 answers the prior of phi counts for nothing.
    theta = (math.log(4) + math.log(2 / 3)) / 2
    assert two_lengths(80_000, 40_000, 100_000) == pytest.approx(logistic(theta), abs=1e-5)
    assert logistic(theta) == pytest.approx(0.62020, abs=1e-5)  # where the plain rate is 0.6


def test_a_rate_of_a_half_either_way_stays_a_half() -> None:
    # By symmetry: what longer answers win more often, shorter ones lose.
    assert two_lengths(9, 1, 10) == pytest.approx(0.5, abs=1e-6)
    assert two_lengths(10, 0, 10) == pytest.approx(0.5, abs=1e-6)  # where the prior alone keeps phi finite


def test_lengths_that_say_nothing_leave_the_plain_rate() -> None:
    assert two_lengths(7, 7, 10) == pytest.approx(0.7, abs=1e-6)


def test_the_fit_is_where_both_derivatives_vanish() -> None:
    # Solved apart: theta of each phi by bisection, then phi by bisection; both equations written out anew.
    draw = np.random.default_rng(0)
    differences = draw.integers(-400, 900, size=60)
    wins = (draw.random(60) < 1 / (1 + np.exp(-0.004 * differences))).astype(float)
    longer = np.tanh(differences / differences.std())

    def theta_of(phi: float) -> float:
        return root_of(lambda theta: sum(logistic(theta + phi * x) - y for x, y in zip(longer, wins, strict=True)), -20, 20)

    def slope(phi: float) -> float:
        theta = theta_of(phi)
        return phi + sum(x * (logistic(theta + phi * x) - y) for x, y in zip(longer, wins, strict=True))

    expected = logistic(theta_of(root_of(slope, -10, 10)))
    found = length_controlled(wins.tolist(), (1000 + differences).tolist(), [1000] * 60)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found < wins.mean() - 0.05  # longer on the whole, and favoured for it


@pytest.mark.parametrize(
    ("wins", "lengths", "expected"),
    [([1.0, 1.0], [5, 50], 1.0), ([0.0, 0.0], [5, 50], 0.0), ([1.0, 0.0], [20, 20], None), ([1.0], [9], None), ([], [], None)],
)
def test_what_cannot_be_fitted_has_the_rate_that_it_tends_to_or_none(
    wins: Sequence[float], lengths: Sequence[int], expected: float | None
) -> None:
    assert length_controlled(wins, lengths, [10] * len(wins)) == expected


def test_tasks_that_compare_with_a_baseline_have_it_beside_the_plain_rate() -> None:
    texts = ["<think>at great length</think>" + "a" * 150, "a" * 50, "a" * 150, "a" * 50]
    prompts = tuple(Prompt(id=str(i), dialogue=user(f"{i}?"), reference={"output": "b" * 100}) for i in range(4))
    task = Task(name="alpaca", prompts=prompts, verifier=lambda text, reference: 1.0, baseline="output")
    answers = [[Completion(text=text, token_ids=(1,), finished=True)] for text in texts]
    verdicts: list[list[float | None]] = [[1.0], [0.0], [1.0], [None]]
    found = Answered(answers=answers, judged=Judged(correct=verdicts, reasons={}), scores=[], num_truncated=0)
    expected = length_controlled([1.0, 0.0, 1.0], [150, 50, 150], [100] * 3)
    plain = Task(name="plain", prompts=prompts, verifier=task.verifier)
    assert at_equal_lengths({"alpaca": task, "plain": plain}, {"alpaca": found, "plain": found}) == {"length_controlled/alpaca": expected}
    none = Answered(answers=answers, judged=Judged(correct=[[None]] * 4, reasons={}), scores=[], num_truncated=0)
    assert at_equal_lengths({"alpaca": task}, {"alpaca": none}) == {}
