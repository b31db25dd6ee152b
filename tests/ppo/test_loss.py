"""The clipped losses of PPO against numbers derived by hand."""

import math

import pytest
import torch
from torch import Tensor

from ppo.loss import LossOutput, importance_weights, ppo_loss, value_loss


def loss_at(ratio: float, advantage: float, *, dual_clip: float | None = None) -> LossOutput:
    """The loss of a single token with clip 0.2; the old log-probability is that of 0.1."""
    old_BT = torch.tensor([[math.log(0.1)]], dtype=torch.float64)
    advantages_BT = torch.tensor([[advantage]], dtype=torch.float64)
    return ppo_loss(old_BT + math.log(ratio), old_BT, advantages_BT, torch.ones(1, 1), clip=0.2, dual_clip=dual_clip)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "num_clipped"),
    [
        # loss = max(-A r, -A clamp(r, 0.8, 1.2)): pessimistic, so the clip binds only where it makes things worse.
        (1.5, 2.0, -2.4, 1),  # max(-3.0, -2.4): no gain beyond 1.2
        (0.5, 2.0, -1.0, 0),  # max(-1.0, -1.6): a good token made rarer is felt in full
        (0.5, -2.0, 1.6, 1),  # max(1.0, 1.6): no gain below 0.8
        (1.5, -2.0, 3.0, 0),  # max(3.0, 2.4): a bad token made likelier is felt in full
        (1.1, 2.0, -2.2, 0),  # inside the range both terms are equal
    ],
)
def test_the_ratio_is_clipped_on_the_side_where_the_policy_gains(ratio: float, advantage: float, expected: float, num_clipped: int) -> None:
    out = loss_at(ratio, advantage)
    assert out.loss.item() == pytest.approx(expected, abs=1e-9)
    assert out.num_clipped.item() == num_clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "num_clipped", "num_dual_clipped"),
    [
        # With c = 3 the loss of a bad token stays at or below -3 A = 6 (Ye et al. 2020, eq. 5).
        (4.0, -2.0, 6.0, 0, 1),  # min(max(8.0, 2.4), 6.0)
        (2.0, -2.0, 4.0, 0, 0),  # min(max(4.0, 2.4), 6.0)
        (0.5, -2.0, 1.6, 1, 0),  # the first clip alone: min(max(1.0, 1.6), 6.0)
        (4.0, 2.0, -2.4, 1, 0),  # good tokens know no second clip: max(-8.0, -2.4), and not min(-2.4, -6.0)
    ],
)
def test_the_dual_clip_bounds_the_loss_of_bad_tokens_alone(
    ratio: float, advantage: float, expected: float, num_clipped: int, num_dual_clipped: int
) -> None:
    out = loss_at(ratio, advantage, dual_clip=3.0)
    assert out.loss.item() == pytest.approx(expected, abs=1e-9)
    assert (out.num_clipped.item(), out.num_dual_clipped.item()) == (num_clipped, num_dual_clipped)
    assert loss_at(ratio, advantage).num_dual_clipped.item() == 0


def test_a_token_under_the_dual_clip_has_no_gradient() -> None:
    logprobs_BT = torch.tensor([[math.log(4.0), math.log(2.0)]], requires_grad=True)
    ppo_loss(logprobs_BT, torch.zeros(1, 2), torch.full((1, 2), -2.0), torch.ones(1, 2), clip=0.2, dual_clip=3.0).loss.backward()
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad[0].tolist() == pytest.approx([0.0, 4.0], abs=1e-6)  # -A r of the second


def test_importance_weights_are_ratios_of_trainer_to_engine_up_to_the_cap_and_without_gradient() -> None:
    # 0.5 / 0.25 = 2, 0.2 / 0.4 = 0.5, 0.9 / 0.1 = 9 capped to 3; the padding may hold anything and weighs 1.
    logprobs_BT = torch.tensor([[0.5, 0.2, 0.9, 0.5]]).log().requires_grad_()
    engine_BT = torch.tensor([[0.25, 0.4, 0.1, 0.0]]).log()
    weights_BT = importance_weights(logprobs_BT, engine_BT, torch.tensor([[1, 1, 1, 0]]), cap=3.0)
    assert weights_BT[0].tolist() == pytest.approx([2.0, 0.5, 3.0, 1.0], abs=1e-6)
    assert not weights_BT.requires_grad


def test_weights_multiply_each_tokens_loss_after_the_clips() -> None:
    # Ratios 1.5 and 4 with advantages 2 and -2 cost -2.4 (clipped) and 6 (dual clipped); 0.5 * -2.4 + 2 * 6 = 10.8.
    ratios_BT, advantages_BT = torch.tensor([[1.5, 4.0]]), torch.tensor([[2.0, -2.0]])
    weights_BT = torch.tensor([[0.5, 2.0]])
    out = ppo_loss(ratios_BT.log(), torch.zeros(1, 2), advantages_BT, torch.ones(1, 2), clip=0.2, dual_clip=3.0, weights_BT=weights_BT)
    assert out.loss.item() == pytest.approx(10.8, abs=1e-5)


def test_padding_that_overflows_the_ratio_leaves_loss_and_gradient_alone() -> None:
    logprobs_BT = torch.tensor([[0.0, 500.0]], requires_grad=True)
    out = ppo_loss(logprobs_BT, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]), clip=0.2)
    out.loss.backward()
    assert logprobs_BT.grad is not None
    assert (out.loss.item(), logprobs_BT.grad.tolist()) == (-1.0, [[-1.0, 0.0]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.5, 2.0, False), (0.5, -2.0, False), (0.5, 2.0, True), (1.5, -2.0, True), (1.0, 1.0, True)]
)
def test_a_clipped_token_has_no_gradient_and_another_has_that_of_the_plain_surrogate(ratio: float, advantage: float, moves: bool) -> None:
    logprobs_BT = torch.tensor([[math.log(ratio)]], requires_grad=True)
    ppo_loss(logprobs_BT, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), clip=0.2).loss.backward()
    assert logprobs_BT.grad is not None
    # d/dlogp (-A exp(logp - old)) = -A r
    assert logprobs_BT.grad.item() == pytest.approx(-advantage * ratio if moves else 0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "target", "expected", "num_clipped"),
    [
        # The old value is 1 and the clip 0.2, so values are clamped to 0.8..1.2; half the larger squared error counts.
        (2.0, 3.0, 0.5 * (1.2 - 3.0) ** 2, 1),  # towards the return and beyond the clip: max(1.0, 3.24) / 2
        (0.0, 3.0, 0.5 * 9.0, 0),  # away from the return: max(9.0, (0.8 - 3)^2 = 4.84) / 2
        (1.1, 3.0, 0.5 * 1.9**2, 0),  # inside the range
    ],
)
def test_the_value_loss_is_half_the_larger_of_the_plain_and_the_clipped_squared_error(
    value: float, target: float, expected: float, num_clipped: int
) -> None:
    values_BT, old_BT, returns_BT = (torch.tensor([[x]], dtype=torch.float64) for x in (value, 1.0, target))
    out = value_loss(values_BT, old_BT, returns_BT, torch.ones(1, 1), clip=0.2)
    assert out.loss.item() == pytest.approx(expected, abs=1e-9)
    assert out.num_clipped.item() == num_clipped


def test_both_losses_are_sums_over_the_mask_and_nothing_outside_it_counts() -> None:
    mask_BT = torch.tensor([[1, 1, 0], [1, 0, 0]])
    # Policy: ratios 1.5, 1, 1.5 with advantages 2, 1, -1 inside the mask: -2.4 - 1 + 1.5 = -1.9, one of them clipped.
    ratios_BT = torch.tensor([[1.5, 1.0, 9.0], [1.5, 9.0, 9.0]])
    advantages_BT = torch.tensor([[2.0, 1.0, 5.0], [-1.0, -5.0, 5.0]])
    policy = ppo_loss(ratios_BT.log(), torch.zeros(2, 3), advantages_BT, mask_BT, clip=0.2)
    assert policy.loss.item() == pytest.approx(-1.9, abs=1e-6)
    assert policy.num_clipped.item() == 1
    # Value: old values 0, so values 1, 0.1, 3 are clamped to 0.2, 0.1, 0.2; returns 1, 1, 1:
    # 0.5 * (max(0, 0.64) + 0.81 + max(4, 0.64)) = 0.5 * 5.45 = 2.725, one of them clipped.
    values_BT = torch.tensor([[1.0, 0.1, 50.0], [3.0, 50.0, 50.0]])
    value = value_loss(values_BT, torch.zeros(2, 3), torch.ones(2, 3), mask_BT, clip=0.2)
    assert value.loss.item() == pytest.approx(2.725, abs=1e-6)
    assert value.num_clipped.item() == 1


def test_the_sums_of_two_halves_add_up_to_the_sum_of_the_whole() -> None:
    draw = torch.Generator().manual_seed(0)

    def random_BT() -> Tensor:
        return torch.randn(6, 5, generator=draw, dtype=torch.float64)

    logprobs_BT, old_BT, advantages_BT = random_BT(), random_BT(), random_BT()
    mask_BT = (random_BT() > -0.5).long()
    whole = ppo_loss(logprobs_BT, old_BT, advantages_BT, mask_BT, clip=0.2, dual_clip=3.0)
    parts = [
        ppo_loss(logprobs_BT[rows], old_BT[rows], advantages_BT[rows], mask_BT[rows], clip=0.2, dual_clip=3.0)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), abs=1e-9)
    assert sum(part.num_clipped.item() for part in parts) == whole.num_clipped.item()
