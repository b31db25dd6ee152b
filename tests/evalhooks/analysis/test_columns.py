"""How columns of scores are shown: shares in points by their metric's name or where somebody says so, all others as they are."""

import pytest

from evalhooks.analysis.columns import Columns, columns_in, columns_of_file, columns_of_metrics


def test_a_share_is_shown_in_points_with_one_digit_and_any_other_score_in_its_own_unit() -> None:
    columns = columns_of_metrics(["rewardbench2/overall", "on_policy/reward_std", "ppo"], best_of="best of 4", shares=["ppo", "other"])
    assert columns.shares == {"rewardbench2/overall", "ppo"}
    assert columns.value("rewardbench2/overall", 0.73961) == "74.0"
    assert columns.value("ppo", -0.0181, sign=True) == "-1.8"
    assert columns.value("on_policy/reward_std", 0.73961) == "0.7396"
    assert columns.value("ppo", None) == "n/a"
    assert (columns.axis("ppo"), columns.axis("on_policy/reward_std")) == (
        "PPO downstream average (points)",
        "on-policy deviation of the reward",
    )
    assert (columns.lost("ppo", 0.0181), columns.lost("on_policy/reward_std", 0.5)) == (
        "1.8 points",
        "0.5 in on-policy deviation of the reward",
    )
    assert (columns.scaled("ppo", 0.5), columns.scaled("elo", 0.5)) == (50.0, 0.5)


def test_values_alone_never_make_a_column_of_somebodys_file_a_share() -> None:
    columns, said = columns_of_file({"rb2": {"a": 0.5, "b": 0.6}, "ppo": {"a": 0.4}})
    assert (columns.shares, columns.name("ppo"), said) == (frozenset(), "ppo", [])


def test_a_column_with_the_key_of_a_metric_is_a_share_unless_its_numbers_deny_it() -> None:
    columns, said = columns_of_file({"bon/average@16": {"a": 0.5}, "rewardbench2/ties": {"a": -0.01, "b": 1.01}, "bon/gsm8k": {"a": 51.0}})
    assert columns.shares == {"bon/average@16", "rewardbench2/ties"}
    assert columns.name("bon/average@16") == "best of 16, average"
    assert columns_of_file({"rewardbench2/math": {}, "Math": {}})[0].name("rewardbench2/math") == "rewardbench2/math"
    assert said == ["bon/gsm8k holds numbers beyond 1, so it is no share of 1; its numbers are shown as they are."]


def test_a_column_that_two_files_have_is_known_by_its_metric_and_told_apart_by_its_file() -> None:
    columns, _ = columns_of_file({"new/rewardbench2/overall": {"a": 0.5}, "old/rewardbench2/overall": {"a": 0.4}}, stems=["new", "old"])
    assert columns.shares == {"new/rewardbench2/overall", "old/rewardbench2/overall"}
    assert columns.name("old/rewardbench2/overall") == "RewardBench 2 overall (old)"


@pytest.mark.parametrize(("shares", "message"), [(["rb2"], "rb2 of b is 60, which is no share of 1"), (["gone"], "shares=gone is none")])
def test_a_share_that_is_none_is_refused(shares: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        columns_of_file({"rb2": {"a": 0.5, "b": 60.0}}, shares=shares)


def test_findings_of_before_have_neither_names_nor_shares() -> None:
    assert columns_in({}) == Columns()
