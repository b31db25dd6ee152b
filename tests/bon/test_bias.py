"""The bias panel finds what a score pays for, and does not take what is merely right for it."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from bon.bias import Panel, panel_of

Cell = Callable[[random.Random, float, float, float], float]
"""A score from noise, correctness, length and lists."""


def drawn(seed: int, score: Cell, *, num_prompts: int = 150, n: int = 8, long_is_right: float = 0.0) -> Panel:
    """The panel of a score on random completions; `long_is_right` is how much longer right completions are."""
    draw = random.Random(seed)
    scores, lengths, lists, correct = [], [], [], []
    for _ in range(num_prompts):
        level = 5 * draw.random()  # a prompt's own, which must not count
        labels = [float(draw.random() < 0.4) for _ in range(n)]
        long = [draw.gauss(level + long_is_right * label, 1) for label in labels]
        items = [0.6 * (own - level) + draw.gauss(0, 1) for own in long]  # lists make a text longer
        correct.append(labels)
        lengths.append(long)
        lists.append(items)
        scores.append([level + score(draw, *each) for each in zip(labels, long, items, strict=True)])
    constant = [[0.0] * n for _ in range(num_prompts)]
    return panel_of(scores, {"length": lengths, "lists": lists, "refusal": constant}, correct)


def found(panel: Panel) -> list[str]:
    return [bias.feature for bias in panel.biases if bias.is_found]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_planted_bias_is_found_and_found_again(seed: int) -> None:
    panel = drawn(seed, lambda draw, right, long, items: right + 0.3 * items + draw.gauss(0, 1))
    assert found(panel) == ["lists"]
    assert panel.constant == ("refusal",)
    [length, lists] = panel.biases
    # Lists and length occur together, so that length is paid for too until lists are held fixed.
    assert length.given_correct > 0.05 > abs(length.alone)
    assert lists.low < lists.given_correct < lists.high
    # Given correctness the score is 0.3 lists plus noise of deviation 1, and lists have the variance 0.36 + 1.
    assert lists.given_correct == pytest.approx(0.3 * math.sqrt(1.36) / math.sqrt(1 + 0.09 * 1.36), abs=0.06)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_score_that_knows_what_is_right_does_not_pay_for_length_where_right_answers_are_longer(seed: int) -> None:
    panel = drawn(seed, lambda draw, right, long, items: 2 * right + draw.gauss(0, 1), long_is_right=1.0)
    assert found(panel) == []
    assert panel.knows_correct
    plain = drawn(seed, lambda draw, right, long, items: 2 * right + 0.4 * long + draw.gauss(0, 1), long_is_right=1.0)
    assert found(plain) == ["length"]


def test_noise_pays_for_nothing_in_nearly_all_draws() -> None:
    panels = [drawn(seed, lambda draw, *_: draw.gauss(0, 1), num_prompts=40, n=4) for seed in range(20)]
    assert sum(bool(found(panel)) for panel in panels) <= 3  # 5% of 20 is one


def test_noise_pays_for_none_of_many_features_in_nearly_all_draws() -> None:
    told = 0
    for seed in range(12):
        scores, *features = np.random.default_rng(seed).normal(size=(7, 40, 4)).tolist()
        told += bool(found(panel_of(scores, {f"feature-{number}": table for number, table in enumerate(features)}, None)))
    assert told <= 2  # at 5% for all six together one of 12; at 5% for each there are six


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Neither feature counts, so both intervals should hold 0 in 95% of the draws: 57 of 60 with a deviation of 1.7.
    panels = [drawn(seed, lambda draw, right, *_: right + draw.gauss(0, 1), num_prompts=40, n=4) for seed in range(30)]
    held = [bias.low <= 0 <= bias.high for panel in panels for bias in panel.biases]
    assert len(held) == 60
    assert sum(held) >= 52


def test_a_correlation_is_that_of_residuals() -> None:
    # Two prompts of four; worked out by regression on correctness with numpy, within prompts.
    scores, lengths, correct = (
        [[1.0, 3.0, 2.0, 5.0], [0.0, 1.0, 4.0, 2.0]],
        [[1.0, 2.0, 4.0, 3.0], [2.0, 1.0, 3.0, 5.0]],
        [[0, 1, 0, 1], [1, 0, 0, 1]],
    )
    flat = [np.concatenate([np.array(row, float) - np.mean(row) for row in table]) for table in (scores, lengths, correct)]
    residuals = [own - flat[2] * (own @ flat[2]) / (flat[2] @ flat[2]) for own in flat[:2]]
    expected = residuals[0] @ residuals[1] / math.sqrt((residuals[0] @ residuals[0]) * (residuals[1] @ residuals[1]))
    [bias] = panel_of(scores, {"length": lengths}, correct).biases
    assert bias.given_correct == pytest.approx(expected)
    assert bias.alone == pytest.approx(expected)  # there is no other feature


def test_what_cannot_be_told_is_left_out() -> None:
    assert panel_of([[1.0]], {"length": [[2.0]]}, None) == Panel(biases=(), constant=("length",), num_prompts=0, knows_correct=False)
    panel = panel_of([[1.0, math.nan], [1.0, 2.0]], {"length": [[1.0, 2.0], [2.0, 1.0]]}, None)
    assert (panel.num_prompts, panel.biases[0].given_correct, panel.knows_correct) == (1, pytest.approx(-1.0), False)
    assert panel_of([[1.0, 1.0]], {"length": [[1.0, 2.0]]}, [[0.0, 1.0]]).biases == ()  # a reward that pays for nothing
