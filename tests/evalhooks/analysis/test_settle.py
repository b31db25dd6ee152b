"""Whether one way to pick reward models is better than another: intervals beside scipy's, and simulated studies."""

import numpy as np
import pytest
from scipy import stats

from evalhooks.analysis.settle import Criterion, Picked, paired, settle

CRITERIA = (
    Criterion(name="ppo.rb2", label="RewardBench 2"),
    Criterion(name="ppo.held-out", label="held-out accuracy"),
    Criterion(name="ppo.random", label="chance"),
    Criterion(name="ppo.recipe", label="RewardBench 2, its recipe", recipe=True),
)


def picks(rng: np.random.Generator, *, seeds: int, signal: float, lift: float = 0.0, candidates: int = 8) -> list[Picked]:
    """Picks of a simulated study. The share `signal` of what RewardBench 2 sees is true; held-out accuracy sees nothing that is, and a
    recipe gives `lift` more than its checkpoint."""
    found: list[Picked] = []
    for seed in range(seeds):
        worth = rng.normal(0.6, 0.05, candidates)
        benchmark = signal * (worth - 0.6) / 0.05 + (1 - signal) * rng.standard_normal(candidates)
        taken = {"rb2": int(benchmark.argmax()), "held-out": int(rng.integers(candidates)), "random": int(rng.integers(candidates))}
        for name, place in taken.items():
            measured = {"best of 16": float(worth[place]), "PPO": float(worth[place] + rng.normal(0, 0.01))}
            found.append(Picked(seed=seed, criterion=f"ppo.{name}", reward_model=f"{seed}-{place}", worth=measured))
        retrained = {use: value + lift + rng.normal(0, 0.01) for use, value in found[-3].worth.items()}
        found.append(Picked(seed=seed, criterion="ppo.recipe", reward_model=f"{seed}-recipe", worth=retrained))
    return found


def test_the_interval_of_paired_differences_is_students() -> None:
    differences = [0.021, -0.004, 0.013, 0.03, 0.008]
    found = paired(differences)
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert found.ci95 == pytest.approx((low, high))
    # Mean 0.0136, squares about it sum to 0.000665, so the error is sqrt(0.000665 / 4 / 5) = 0.005767, and t(4) at 97.5% is 2.776.
    assert found.mean == pytest.approx(0.0136)
    assert found.ci95 == pytest.approx((0.0136 - 2.776 * 0.005767, 0.0136 + 2.776 * 0.005767), abs=2e-5)


def test_one_difference_and_equal_ones_have_no_interval() -> None:
    assert paired([]).mean is None
    assert (paired([0.2]).mean, paired([0.2]).ci95, paired([0.2]).excludes_zero) == (0.2, None, False)
    assert paired([0.0, 0.0, 0.0]).ci95 is None
    # Both 2 of 40 right answers more, which is 0.050000000000000044 once and 0.04999999999999993 once.
    assert (paired([0.8 - 0.75, 0.65 - 0.6, 0.55 - 0.5]).ci95, paired([0.8 - 0.75, 0.65 - 0.6]).excludes_zero) == (None, False)


def test_a_planted_winner_is_found() -> None:
    told = settle(picks(np.random.default_rng(0), seeds=12, signal=1.0, lift=0.05), CRITERIA)
    better = {(entry["a"], entry["b"], entry["use"]): entry["better"] for entry in told["comparisons"]}
    assert better == {
        ("ppo.rb2", "ppo.held-out", "best of 16"): "ppo.rb2",
        ("ppo.rb2", "ppo.held-out", "PPO"): "ppo.rb2",
        ("ppo.rb2", "ppo.random", "best of 16"): "ppo.rb2",
        ("ppo.rb2", "ppo.random", "PPO"): "ppo.rb2",
        ("ppo.recipe", "ppo.rb2", "best of 16"): "ppo.recipe",
        ("ppo.recipe", "ppo.rb2", "PPO"): "ppo.recipe",
    }
    assert "Over 12 seeds, reward models picked by RewardBench 2: in best of 16, against held-out accuracy +" in told["answer"]
    assert "cannot tell" not in told["answer"]
    assert told["answer"].count("better") == 6


def test_a_criterion_that_picks_worse_ones_is_called_worse() -> None:
    told = settle(picks(np.random.default_rng(0), seeds=12, signal=1.0, lift=-0.05), CRITERIA)
    assert [entry["better"] for entry in told["comparisons"] if entry["recipe"]] == ["ppo.rb2", "ppo.rb2"]
    assert "advice to take the recipe and not the checkpoint: in best of 16, -" in told["answer"]
    assert told["answer"].count("worse") == 2


def test_without_a_winner_the_answer_is_that_it_cannot_tell() -> None:
    told = settle(picks(np.random.default_rng(1), seeds=5, signal=0.0), CRITERIA)
    assert all(entry["better"] == "" for entry in told["comparisons"])
    assert told["answer"].count("cannot tell with n = 5 seeds") == 6
    assert "If all choices were equally good, about 0.3 of these 6 intervals would exclude 0 all the same." in told["answer"]


def test_with_nothing_planted_a_winner_is_named_about_as_often_as_the_intervals_allow() -> None:
    # 400 studies of 5 seeds: 5% with a standard error of 1.1%. Equal picks, with a difference of 0, make it rarer.
    rng = np.random.default_rng(2)
    named = [settle(picks(rng, seeds=5, signal=0.0), CRITERIA[:2])["comparisons"][0]["better"] != "" for _ in range(400)]
    assert 0.01 < np.mean(named) < 0.08


def test_the_same_reward_model_at_every_seed_leaves_nothing_to_compare() -> None:
    worth = {"best of 16": 0.5}
    same = [Picked(seed=seed, criterion=one.name, reward_model=f"{seed}", worth=worth) for seed in range(3) for one in CRITERIA[:2]]
    told = settle(same, CRITERIA[:2])
    assert told["comparisons"][0]["same"] == 3
    assert "against held-out accuracy the same reward model in all n = 3 seeds, so there is nothing to compare" in told["answer"]


def test_the_same_reward_model_used_otherwise_is_compared() -> None:
    worth = {"ppo.rb2": 0.5, "ppo.held-out": 0.4}
    found = [
        Picked(seed=k, criterion=one.name, reward_model="x", worth={"PPO": worth[one.name] + 0.01 * k * k})
        for k in range(3)
        for one in CRITERIA[:2]
    ]
    found[0] = Picked(seed=0, criterion="ppo.rb2", reward_model="x", worth={"PPO": 0.51})
    told = settle(found, CRITERIA[:2])
    assert "+10.3 points" in told["answer"]
    assert "the same reward model in 3" in told["answer"]


def test_a_seed_that_lacks_one_of_both_is_left_out() -> None:
    found = [pick for pick in picks(np.random.default_rng(3), seeds=4, signal=1.0) if (pick.seed, pick.criterion) != (2, "ppo.rb2")]
    told = settle(found, CRITERIA)
    assert {tuple(entry["seeds"]) for entry in told["comparisons"]} == {(0, 1, 3)}
    one = settle([pick for pick in found if pick.seed == 0], CRITERIA)
    assert one["answer"].count("cannot tell with n = 1 seed") == 6
    assert "Over 1 seed, " in one["answer"]
