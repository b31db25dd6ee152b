"""What predicts a downstream result, by the errors on reward models that were left out."""

import numpy as np
import pytest

from evalhooks.analysis.diagnostics import diagnostic
from evalhooks.analysis.table import ScoredModel


def models(result: list[float], **scores: list[float]) -> list[ScoredModel]:
    return [
        ScoredModel(name=str(place), facts={}, scores={"ppo": value, **{name: own[place] for name, own in scores.items()}})
        for place, value in enumerate(result)
    ]


def test_the_gain_is_the_share_of_the_squared_error_that_an_input_takes_away() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = 2 * x + rng.normal(size=12)
    lines, means = [], []
    for left_out in range(12):
        kept = np.arange(12) != left_out
        slope, intercept = np.polyfit(x[kept], y[kept], 1)
        lines.append(y[left_out] - slope * x[left_out] - intercept)
        means.append(y[left_out] - y[kept].mean())
    found = diagnostic(models(y.tolist(), rb2=x.tolist()), "rb2", "ppo")
    assert found.error == pytest.approx(np.sqrt(np.mean(np.square(lines))))
    assert found.error_of_mean == pytest.approx(np.sqrt(np.mean(np.square(means))))
    assert found.gain == pytest.approx(1 - np.sum(np.square(lines)) / np.sum(np.square(means)))


def test_a_fact_of_three_kinds_is_two_inputs_and_needs_twenty_reward_models() -> None:
    def of(number: int) -> list[ScoredModel]:
        kinds = ["own", "other", "control"]
        facts = [{"group": kinds[place % 3]} for place in range(number)]
        return [ScoredModel(name=str(place), facts=own, scores={"ppo": float(place % 3)}) for place, own in enumerate(facts)]

    few = diagnostic(of(18), "group", "ppo")
    assert (few.num_inputs, few.gain, few.note) == (2, None, "Not fitted: 2 inputs need 20 reward models, and there are 18.")
    # Each kind has one result, so its others say it.
    assert diagnostic(of(21), "group", "ppo").gain == pytest.approx(1.0)
