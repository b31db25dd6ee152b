"""What training logs, against numbers worked out by hand and plain sums over all pairs."""

import pytest
import torch

from rmtrain.metrics import PairSums, pair_sums


def sums_of(chosen: list[float], rejected: list[float], *, loss: float = 0.0) -> PairSums:
    return pair_sums(torch.tensor(loss), torch.tensor(chosen), torch.tensor(rejected), num_tokens=7, num_unique_tokens=5)


def test_means_and_deviations_of_both_sides() -> None:
    metrics = sums_of([3.0, 1.0], [1.0, 2.0], loss=2.5).metrics()
    # Differences 2 and -1. Chosen 3 and 1: mean 2, deviation 1; rejected 1 and 2: mean 1.5, deviation 0.5.
    assert metrics["loss"] == pytest.approx(1.25)
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["margin"] == pytest.approx(0.5)
    assert (metrics["chosen_reward"], metrics["chosen_reward_std"]) == pytest.approx((2.0, 1.0))
    assert (metrics["rejected_reward"], metrics["rejected_reward_std"]) == pytest.approx((1.5, 0.5))


def test_equal_rewards_are_half_right() -> None:
    assert sums_of([1.0, 1.0], [1.0, 0.0]).metrics()["accuracy"] == pytest.approx(0.75)


def test_the_calibration_error_is_the_distance_of_confidence_and_accuracy_by_bin() -> None:
    # sigmoid(log 4) = 0.8 for four pairs, of which three are right: |0.8 - 0.75|. sigmoid(log 1.5) = 0.6 for one that is wrong:
    # 0.6. Weighted by pairs: (4 * 0.05 + 1 * 0.6) / 5 = 0.16.
    four, half_more = torch.tensor(4.0).log().item(), torch.tensor(1.5).log().item()
    metrics = sums_of([four, four, four, -four, -half_more], [0.0] * 5).metrics()
    assert metrics["calibration_error"] == pytest.approx(0.16, abs=1e-6)


def test_a_certain_and_right_model_is_calibrated_and_a_certain_and_wrong_one_is_not() -> None:
    assert sums_of([50.0] * 3, [0.0] * 3).metrics()["calibration_error"] == pytest.approx(0.0, abs=1e-9)
    assert sums_of([0.0] * 3, [50.0] * 3).metrics()["calibration_error"] == pytest.approx(1.0, abs=1e-9)


def test_sums_of_parts_add_up_to_that_of_the_whole() -> None:
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = (torch.randn(40, generator=draw).tolist() for _ in range(2))
    whole = sums_of(chosen, rejected, loss=8.0)
    parts = sums_of(chosen[:13], rejected[:13], loss=5.0)
    parts += sums_of(chosen[13:], rejected[13:], loss=3.0)
    assert parts.metrics() == pytest.approx(whole.metrics())


def test_deviations_of_large_equal_rewards_are_not_negative_under_the_root() -> None:
    metrics = sums_of([1e4 + 0.1] * 7, [0.0] * 7).metrics()
    assert metrics["chosen_reward_std"] == pytest.approx(0.0, abs=1e-2)


def test_sums_over_no_pairs_give_zeros() -> None:
    assert set(PairSums.zeros().metrics().values()) == {0.0}


def test_sums_cross_processes_as_one_tensor_and_come_back_under_their_names() -> None:
    sums = sums_of([3.0, 1.0], [1.0, 2.0], loss=2.5)
    back = PairSums.unstacked(sums.stacked())
    assert (back.num_pairs.item(), back.loss.item(), back.num_tokens.item(), back.num_unique_tokens.item()) == (2.0, 2.5, 7.0, 5.0)
    # Confidences sigmoid(2) = 0.88 and sigmoid(1) = 0.73: bins 7 (0.85 to 0.9) and 4 (0.7 to 0.75).
    assert back.bin_confidence.nonzero().flatten().tolist() == [4, 7]
    assert back.bin_correct.tolist() == [0.0] * 7 + [1.0] + [0.0] * 2
