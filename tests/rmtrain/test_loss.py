"""The Bradley-Terry loss, by numbers worked out by hand.

Used below: log(1 + e^-1) = 0.3132617, log(1 + e^1) = 1.3132617, log(1 + e^2) = 2.1269280, log 2 = 0.6931472.
"""

import math

import pytest
import torch
from torch import Tensor

from rmtrain.loss import bradley_terry_loss


def rewards(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def test_equal_rewards_cost_log_two() -> None:
    assert bradley_terry_loss(rewards(0.7), rewards(0.7)).item() == pytest.approx(math.log(2))


def test_the_loss_of_a_pair_is_minus_log_sigmoid_of_the_difference() -> None:
    # -log sigmoid(1) = log(1 + e^-1); the other way round -log sigmoid(-1) = log(1 + e^1).
    assert bradley_terry_loss(rewards(3.0), rewards(2.0)).item() == pytest.approx(0.3132617)
    assert bradley_terry_loss(rewards(2.0), rewards(3.0)).item() == pytest.approx(1.3132617)


def test_the_loss_of_a_batch_is_the_mean_over_its_pairs() -> None:
    # (0.3132617 + 1.3132617) / 2
    assert bradley_terry_loss(rewards(1.0, 0.0), rewards(0.0, 1.0)).item() == pytest.approx(0.8132617)


def test_a_margin_is_taken_off_the_difference_pair_by_pair() -> None:
    # d = (3 - 1 - 2, 3 - 1 - 1) = (0, 1): (0.6931472 + 0.3132617) / 2
    loss = bradley_terry_loss(rewards(3.0, 3.0), rewards(1.0, 1.0), margin_B=torch.tensor([2.0, 1.0]))
    assert loss.item() == pytest.approx(0.50320445)


def test_a_margin_of_zero_is_no_margin() -> None:
    loss = bradley_terry_loss(rewards(3.0), rewards(1.0), margin_B=torch.zeros(1))
    assert loss.item() == bradley_terry_loss(rewards(3.0), rewards(1.0)).item()


def test_smoothing_charges_the_share_of_wrong_labels_for_the_other_order() -> None:
    # d = 1, s = 0.25: 0.75 x 0.3132617 + 0.25 x 1.3132617 = 0.3132617 + 0.25 x 1
    assert bradley_terry_loss(rewards(1.0), rewards(0.0), label_smoothing=0.25).item() == pytest.approx(0.5632617)


def test_smoothing_is_at_rest_where_the_probability_equals_the_share_of_right_labels() -> None:
    # sigmoid(d) = 1 - s at d = log((1 - s) / s) = log 3 for s = 0.25; no gradient is left.
    chosen = rewards(math.log(3))
    bradley_terry_loss(chosen, rewards(0.0), label_smoothing=0.25).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_centring_charges_the_squared_sum_of_a_pairs_rewards() -> None:
    # d = 1 - 3 = -2: log(1 + e^2) + 0.1 x (1 + 3)^2 = 2.1269280 + 1.6
    assert bradley_terry_loss(rewards(1.0), rewards(3.0), center=0.1).item() == pytest.approx(3.7269280)


def test_centring_looks_at_the_rewards_and_not_at_the_margin() -> None:
    # d = 2 - 0 - 2 = 0: log 2 + 0.5 x (2 + 0)^2
    loss = bradley_terry_loss(rewards(2.0), rewards(0.0), margin_B=torch.tensor([2.0]), center=0.5)
    assert loss.item() == pytest.approx(2.6931472)


def test_descent_raises_chosen_and_lowers_rejected_by_equal_amounts() -> None:
    # d loss / d chosen = -sigmoid(-d) / B: -0.5 / 2 at d = 0, and -0.2689414 / 2 at d = 1.
    chosen, rejected = rewards(0.0, 1.0), rewards(0.0, 0.0)
    bradley_terry_loss(chosen, rejected).backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.25, -0.1344707])
    assert rejected.grad.tolist() == pytest.approx([0.25, 0.1344707])


def test_the_gradient_of_centring_pulls_both_rewards_towards_zero() -> None:
    # 2 x 0.1 x (1 + 1) = 0.4 on each, beside -0.5 on chosen and 0.5 on rejected at d = 0.
    chosen, rejected = rewards(1.0), rewards(1.0)
    bradley_terry_loss(chosen, rejected, center=0.1).backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-0.1, 0.9))


def test_a_hopeless_pair_costs_its_difference_and_stays_finite() -> None:
    # log(1 + e^200) = 200 up to e^-200; a softmax in float32 without care would overflow.
    assert bradley_terry_loss(rewards(-100.0), rewards(100.0)).item() == pytest.approx(200.0)


def test_rewards_in_bfloat16_are_worked_on_in_float32() -> None:
    # In bfloat16 itself the loss would round to 0.3125.
    half = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.0], dtype=torch.bfloat16)
    loss = bradley_terry_loss(*half)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.3132617)
