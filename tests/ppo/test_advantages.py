"""Rewards per token, GAE and whitening against numbers derived by hand and against the recursion of the definition."""

import math
import random

import pytest
import torch
from torch import Tensor

from ppo.advantages import gae, token_rewards, whiten


def mask_of(lengths: list[int]) -> Tensor:
    return torch.tensor([[1] * length + [0] * (max(lengths) - length) for length in lengths])


def recursive_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = r_t + gamma V_{t+1} - V_t + gamma lam A_{t+1}, for one unpadded episode; V and A are 0 after its end."""
    if not rewards:
        return []
    later = recursive_gae(rewards[1:], values[1:], gamma, lam)
    next_value = values[1] if len(values) > 1 else 0.0
    return [rewards[0] + gamma * next_value - values[0] + gamma * lam * (later[0] if later else 0.0), *later]


def test_gae_of_three_tokens_is_the_one_derived_by_hand() -> None:
    # gamma = 0.5, lam = 0.5, rewards (0, 0, 1), values (1, 2, 4), the value after the end is 0.
    # delta_2 = 1 + 0.5 * 0 - 4 = -3        A_2 = -3
    # delta_1 = 0 + 0.5 * 4 - 2 = 0         A_1 = 0 + 0.25 * -3 = -0.75
    # delta_0 = 0 + 0.5 * 2 - 1 = 0         A_0 = 0 + 0.25 * -0.75 = -0.1875
    # returns = A + V = (0.8125, 1.25, 1)
    out = gae(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3), gamma=0.5, lam=0.5)
    assert out.advantages_BT.tolist() == [[-0.1875, -0.75, -3.0]]
    assert out.returns_BT.tolist() == [[0.8125, 1.25, 1.0]]


def test_with_lambda_and_gamma_of_one_the_return_of_a_token_is_the_sum_of_the_rewards_from_there() -> None:
    # Rewards (1, 2, 3): sums from each token on are 6, 5 and 3, whatever the critic says.
    out = gae(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[7.0, -2.0, 0.5]]), torch.ones(1, 3), gamma=1.0, lam=1.0)
    assert out.returns_BT.tolist() == [[6.0, 5.0, 3.0]]


def test_gae_equals_the_recursion_on_random_episodes_of_varied_lengths() -> None:
    draw = random.Random(0)
    for _ in range(20):
        lengths = [draw.randint(1, 9) for _ in range(6)]
        gamma, lam = draw.uniform(0.5, 1), draw.uniform(0, 1)
        mask_BT = mask_of(lengths)
        # What lies behind the end of an episode is garbage and must not reach it.
        rewards_BT, values_BT = (torch.tensor([[draw.gauss(0, 2) for _ in row] for row in mask_BT], dtype=torch.float64) for _ in "rv")
        out = gae(rewards_BT, values_BT, mask_BT, gamma=gamma, lam=lam)
        for row, length in enumerate(lengths):
            expected = recursive_gae(rewards_BT[row, :length].tolist(), values_BT[row, :length].tolist(), gamma, lam)
            assert out.advantages_BT[row, :length].tolist() == pytest.approx(expected, abs=1e-6)
            returns = [a + v for a, v in zip(expected, values_BT[row, :length].tolist(), strict=True)]
            assert out.returns_BT[row, :length].tolist() == pytest.approx(returns, abs=1e-6)
            assert not out.advantages_BT[row, length:].any()
            assert not out.returns_BT[row, length:].any()


def test_whitening_takes_mean_and_population_variance_over_the_mask_alone() -> None:
    # Masked in: 1, 3, 5, 7. Mean 4, variance (9 + 1 + 1 + 9) / 4 = 5.
    values_BT = torch.tensor([[1.0, 3.0, 5.0], [7.0, 1000.0, -1000.0]])
    whitened_BT = whiten(values_BT, mask_of([3, 1]))
    root = math.sqrt(5)
    assert whitened_BT[0].tolist() == pytest.approx([-3 / root, -1 / root, 1 / root], abs=1e-6)
    assert whitened_BT[1].tolist() == pytest.approx([3 / root, 0.0, 0.0], abs=1e-6)


def test_whitening_equal_values_gives_zeros() -> None:
    assert whiten(torch.full((2, 3), 4.0), mask_of([3, 2])).tolist() == [[0.0] * 3] * 2


def test_the_score_lands_on_the_last_token_and_the_kl_penalty_on_every_token_of_the_completion() -> None:
    # beta = 0.5: -0.5 * (2, 4, 6) = (-1, -2, -3), with the score 10 at the last token (-3 + 10 = 7);
    # in the second row the completion is one token long: -0.5 * 8 - 20 = -24, and nothing follows.
    kl_BT = torch.tensor([[2.0, 4.0, 6.0], [8.0, 99.0, 99.0]])
    rewards_BT = token_rewards(torch.tensor([10.0, -20.0]), kl_BT, mask_of([3, 1]), beta=0.5)
    assert rewards_BT.tolist() == [[-1.0, -2.0, 7.0], [-24.0, 0.0, 0.0]]
