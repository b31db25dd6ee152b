"""The metrics of policy training against numbers derived by hand."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from core.hooks.run_context import RunContext
from ppo.advantages import Advantages
from ppo.metrics import (
    NUM_SUMS,
    BatchWatch,
    Metric,
    TokenSums,
    batch_metrics,
    completion_metrics,
    explained_variance,
    rollout_metrics,
    update_metrics,
)
from tests.ppo.episodes import episodes_with
from tests.ppo.runs import config_of


def test_scores_lengths_and_the_eos_rate_are_means_over_completions() -> None:
    # Scores 1, 3, 8: mean 4, squared deviations 9, 1, 16. Lengths 2, 4, 6. One of three was cut.
    found = completion_metrics(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([True, False, True]), torch.tensor([2, 4, 6]))
    assert found == pytest.approx({"rm_score": 4.0, "rm_score_std": math.sqrt(26 / 3), "length": 4.0, "eos_rate": 2 / 3}, abs=1e-6)


def test_the_kl_is_summed_over_the_tokens_of_a_completion() -> None:
    # Every token has log p - log q = 0.3 - 0.1 = 0.2; the completions have 2 and 1 tokens, so k1 is (0.4 + 0.2) / 2 = 0.3. k3 of a
    # token is exp(-0.2) - 1 + 0.2 = 0.0187308, and 1.5 tokens of it are 0.0280961.
    episodes = episodes_with([1.0, 3.0], [True, False], logprob=0.3, reference=0.1)
    found = rollout_metrics(replace(episodes, seconds={"generation": 2.5}))
    expected = {"kl": 0.3, "kl_k3": 0.0280961, "rm_score": 2.0, "rm_score_std": 1.0, "length": 1.5, "eos_rate": 0.5}
    assert found == pytest.approx({**expected, "seconds/generation": 2.5}, abs=1e-6)


def test_each_term_of_a_reward_is_logged_where_there_are_several() -> None:
    episodes = episodes_with([1.0, 3.0], [True, True])
    one, two = {"rm": torch.tensor([1.0, 3.0])}, {"rm": torch.tensor([1.0, 2.0]), "short": torch.tensor([0.0, 1.0])}
    assert not [name for name in rollout_metrics(replace(episodes, terms=one)) if name.startswith("reward/")]
    found = rollout_metrics(replace(episodes, terms=two))
    assert (found["reward/rm"], found["reward/short"]) == (1.5, 0.5)


def test_the_gap_to_the_engine_that_drew_is_a_mean_over_tokens_inside_the_mask() -> None:
    episodes = episodes_with([0.0, 0.0], [True, True], logprob=-1.0)
    assert "importance_gap" not in rollout_metrics(episodes)
    # Gaps of 0.5, 0.1 and 0.3; the fourth token is padding.
    engine_BT = torch.tensor([[-1.5, -0.9], [-1.3, 40.0]])
    assert rollout_metrics(replace(episodes, engine_logprobs_BT=engine_BT))["importance_gap"] == pytest.approx(0.3, abs=1e-6)


def test_the_logged_advantages_and_returns_are_those_inside_the_mask() -> None:
    # Advantages 1, 2 and 6: mean 3, variance (4 + 1 + 9) / 3; returns 3, 6, 0: mean 3; scores 2, 4: mean 3, deviation 1.
    episodes = episodes_with([0.0, 0.0], [True, True])
    advantages = Advantages(advantages_BT=torch.tensor([[1.0, 2.0], [6.0, 9.0]]), returns_BT=torch.tensor([[3.0, 6.0], [0.0, 9.0]]))
    logged = batch_metrics(episodes, torch.tensor([2.0, 4.0]), advantages)
    assert logged.pop("explained_variance") == pytest.approx(0.0, abs=1e-6)
    spread = (14 / 3) ** 0.5
    assert logged == pytest.approx({"score": 3.0, "score_std": 1.0, "advantage": 3.0, "advantage_std": spread, "return": 3.0}, abs=1e-6)


def test_the_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one() -> None:
    returns_N = torch.tensor([1.0, 3.0, 8.0])
    assert explained_variance(returns_N, returns_N) == 1.0
    assert explained_variance(returns_N, torch.full((3,), 4.0)) == pytest.approx(0.0, abs=1e-6)
    # Values 0, 2, 4 leave 1, 1, 4 of the returns 1, 3, 8: 1 - 3 / 13 (sample variances).
    assert explained_variance(returns_N, torch.tensor([0.0, 2.0, 4.0])) == pytest.approx(10 / 13, abs=1e-6)


def test_the_explained_variance_of_a_batch_leaves_padding_out() -> None:
    episodes = replace(episodes_with([0.0, 0.0], [True, True]), values_BT=torch.tensor([[0.0, 2.0], [4.0, -50.0]]))
    advantages = Advantages(advantages_BT=torch.zeros(2, 2), returns_BT=torch.tensor([[1.0, 3.0], [8.0, 99.0]]))
    assert batch_metrics(episodes, torch.zeros(2), advantages)["explained_variance"] == pytest.approx(10 / 13, abs=1e-6)


def test_sums_keep_their_places_when_they_are_stacked_and_added() -> None:
    first = TokenSums(**{field.name: torch.tensor(float(place), requires_grad=True) for place, field in enumerate(fields(TokenSums))})
    total = TokenSums.unstacked(first.stacked() + torch.full((NUM_SUMS,), 10.0, dtype=torch.float64))
    assert [getattr(total, field.name).item() for field in fields(TokenSums)] == [10.0 + place for place in range(NUM_SUMS)]
    assert not total.entropy.requires_grad
    assert total.entropy.dtype == torch.float64


def test_an_update_is_logged_as_means_over_its_tokens() -> None:
    sums = TokenSums(
        policy_loss=torch.tensor(-4.0),
        value_loss=torch.tensor(2.0),
        entropy=torch.tensor(12.0),
        kl_loss=torch.tensor(0.4),
        num_clipped=torch.tensor(6),
        num_dual_clipped=torch.tensor(1),
        num_values_clipped=torch.tensor(3),
        importance_weight=torch.tensor(7.0),
        approx_kl=torch.tensor(0.8),
    )
    assert update_metrics(sums, 8, grad_norms=[1.0, 4.0], first_ratio_error=1e-7) == pytest.approx(
        {
            "loss/policy": -0.5,
            "loss/value": 0.25,
            "loss/kl": 0.05,
            "entropy": 1.5,
            "clip_fraction": 0.75,
            "dual_clip_fraction": 0.125,
            "value_clip_fraction": 0.375,
            "importance_weight": 0.875,
            "approx_kl": 0.1,
            "grad_norm": 2.5,
            "first_ratio_error": 1e-7,
        }
    )


def test_a_resumed_run_counts_batches_of_equal_scores_from_its_first_batch(tmp_path: Path) -> None:
    said: list[str] = []
    equal: dict[str, float] = {Metric.EOS_RATE: 1.0, Metric.KL: 0.0, Metric.SCORE_STD: 0.0}
    context = RunContext(dir=tmp_path, say=said.append)
    watch = BatchWatch(config_of(Path(".")), context, kl=0.0)
    watch.see(equal, 12)  # 1 of 12 batches is fewer than a tenth, whichever batches this process saw
    assert (said, watch.num_equal) == ([], 1)
    BatchWatch(config_of(Path(".")), context, kl=0.0, num_equal=watch.num_equal).see(equal, 20)  # 2 of 20 are not
    assert [line.partition(" answers")[0] for line in said] == ["warning: in batch 20 all"]
