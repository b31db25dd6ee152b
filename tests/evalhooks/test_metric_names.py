"""What people read in place of a metric's key."""

import pytest

from evalhooks.metric_names import column_names, link_name, metric_name


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("rewardbench2/overall", "RewardBench 2 overall"),
        ("rewardbench2/precise_if", "Precise IF"),
        ("rewardbench2/mean_of_5_no_precise_if", "RewardBench 2 mean of 5: no Precise IF"),
        ("rewardbench2_se/math", "Math, standard error"),
        ("rewardbench1/overall", "RewardBench 1 overall"),
        ("rewardbench1/chat_hard", "RewardBench 1 Chat Hard"),
        ("rewardbench1/prior_sets", "RewardBench 1 prior sets"),
        ("bon/average", "best of 8, average"),
        ("bon/gsm8k@4", "best of 4, gsm8k"),
        ("bon/my-rm/gsm8k@4", "best of 4 by my-rm, gsm8k"),
        ("downstream/average", "downstream average"),
        ("downstream/gsm8k", "downstream, gsm8k"),
        ("ppo", "PPO downstream average"),
        ("checkpoint/step", "training step"),
        ("train/step", "training step"),
        ("elo", "elo"),
        ("leader/board", "leader/board"),
        ("rewardbench2/", "rewardbench2/"),
    ],
)
def test_people_read_a_name_and_not_the_key_of_a_metric(metric: str, name: str) -> None:
    assert metric_name(metric, best_of="best of 8") == name


def test_columns_that_would_bear_one_name_keep_their_keys() -> None:
    assert column_names(["rewardbench2/math", "Math", "ppo"]) == {
        "rewardbench2/math": "rewardbench2/math",
        "Math": "Math",
        "ppo": "PPO downstream average",
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("rewardbench2/focus~bon/average", "Focus ~ best of N, average"),
        ("rewardbench2/overall~ppo (upper half)", "RewardBench 2 overall ~ PPO downstream average (upper half)"),
        ("rb2~elo (protocol a (b), upper half)", "rb2 ~ elo (protocol a (b), upper half)"),
        ("elo", "elo"),
    ],
)
def test_a_correlation_is_called_by_its_columns_and_keeps_its_part(key: str, name: str) -> None:
    assert link_name(key) == name
