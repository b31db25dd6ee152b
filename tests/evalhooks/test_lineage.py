"""When a reward model is said not to fit a policy, and the figures it is said with."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from core.config import ModelConfig
from core.models.origin import Origin, origin_of, prompt_sources
from evalhooks.lineage import (
    FITTING,
    OTHER_LINEAGE,
    OTHER_PROMPTS,
    Answer,
    Table8Means,
    in_distribution,
    lineage_summary,
    same_lineage,
    warnings_of,
)

TABLE_8 = {
    # RewardBench 2, PPO and best-of-16 of every reward model.
    FITTING: [
        (68.7, 59.8, 52.4),
        (67.9, 60.4, 53.8),
        (64.8, 59.9, 51.7),
        (60.0, 59.5, 53.6),
        (60.0, 60.1, 52.2),
        (59.9, 59.6, 51.2),
        (59.1, 60.3, 53.0),
        (55.6, 60.7, 51.5),
        (49.8, 60.2, 48.0),
    ],
    OTHER_LINEAGE: [(72.9, 54.5, 56.4), (71.9, 55.8, 55.7), (69.4, 56.4, 54.7)],
    OTHER_PROMPTS: [(66.7, 57.0, 50.0), (65.6, 58.5, 49.2)],
}


def origin(path: Path | str, lineage: str = "") -> Origin:
    return origin_of(ModelConfig(path=str(path), lineage=lineage))


def folder(path: Path, base: str = "") -> Path:
    """The folder of a model, whose card names `base`."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    if base:
        (path / "README.md").write_text(f"---\nbase_model: {base}\n---\n")
    return path


@pytest.mark.parametrize("group", list(TABLE_8), ids=str)
def test_the_figures_are_the_means_of_table_8(group: Table8Means) -> None:
    benchmark, ppo, best_of_n = (fmean(column) for column in zip(*TABLE_8[group], strict=True))
    assert (group.rewardbench2, group.ppo, group.best_of_n) == pytest.approx((benchmark, ppo, best_of_n), abs=0.051)


@pytest.mark.parametrize("reward", ["tulu-3-8b", "allenai/Llama-3.1-Tulu-3-8B-RL", "Llama-3.1-Tulu-3-8B-DPO@main"])
def test_all_stages_of_tulu_are_one_lineage(reward: str) -> None:
    assert same_lineage(origin("allenai/Llama-3.1-Tulu-3-8B-SFT"), origin("org/rm", reward)) == Answer.yes


def test_llama_instruct_is_another_lineage_than_tulu_although_both_grew_from_one_model() -> None:
    policy, reward = origin("allenai/Llama-3.1-Tulu-3-8B-SFT"), origin("org/rm", "meta-llama/Llama-3.1-8B-Instruct")
    assert policy.ancestors == reward.ancestors == ("llama-3.1-8b",)
    assert same_lineage(policy, reward) == Answer.no


def test_a_folder_of_which_nothing_is_known_is_still_the_same_folder(tmp_path: Path) -> None:
    unknown = folder(tmp_path / "unknown")
    reward = Origin(base=unknown.as_posix())
    assert same_lineage(origin(unknown), reward) == Answer.yes
    assert same_lineage(Origin(base="coast", evidence="lineage.json"), reward) == Answer.unknown


def test_a_policy_of_ones_own_descends_from_the_reward_model_s_base(tmp_path: Path) -> None:
    policy = origin(folder(tmp_path / "sft", base="org/start"))
    assert same_lineage(policy, Origin(base="start", evidence="model.lineage")) == Answer.yes
    assert same_lineage(policy, Origin(base="zephyr", evidence="model.lineage")) == Answer.no


def test_a_folder_beside_a_common_ancestor_may_hold_anything(tmp_path: Path) -> None:
    # Perhaps a copy of Tulu, whose own card names Llama 3.1 8B.
    policy = origin(folder(tmp_path / "copy", base="meta-llama/Llama-3.1-8B"))
    assert policy.families[1:] == ("llama-3.1-8b",)
    assert same_lineage(policy, origin("org/rm", "tulu-3-8b")) == Answer.unknown
    assert same_lineage(origin("org/rm", "tulu-3-8b"), policy) == Answer.unknown


def test_names_alone_tell_no_lineages_apart() -> None:
    assert same_lineage(origin("org/one"), origin("org/other", "zephyr")) == Answer.unknown
    assert same_lineage(origin("org/other", "zephyr"), origin("org/one")) == Answer.unknown
    assert same_lineage(origin("org/one"), origin("Someone/One-DPO")) == Answer.yes


def test_prompts_are_compared_by_content_and_by_name(tmp_path: Path) -> None:
    tulu, copy, other = tmp_path / "Tulu.jsonl", tmp_path / "prompts.jsonl", tmp_path / "train.jsonl"
    for path, text in ((tulu, "1\n"), (copy, "1\n"), (other, "2\n")):
        path.write_text(text)
    reward = Origin(base="coast", sources=prompt_sources([str(tulu)]))
    assert in_distribution(reward, prompt_sources([str(copy)])) == Answer.yes  # another name, the same content
    assert in_distribution(reward, frozenset({"tulu", "sha256:0"})) == Answer.yes  # its prompts alone, say
    assert in_distribution(reward, prompt_sources([str(other)])) == Answer.unknown  # "train" is no name
    assert in_distribution(reward, frozenset({"skywork"})) == Answer.no
    assert in_distribution(reward, frozenset({"skywork", "tulu"})) == Answer.yes  # one source in common is enough
    assert in_distribution(Origin(base="coast"), frozenset({"skywork"})) == Answer.unknown
    assert in_distribution(reward, frozenset()) == Answer.unknown


TULU = Origin(base="tulu-3-8b", ancestors=("llama-3.1-8b",), evidence="model.lineage", sources=frozenset({"tulu"}))
LLAMA = Origin(base="llama-3.1-8b-instruct", ancestors=("llama-3.1-8b",), evidence="its model card", sources=frozenset({"skywork"}))
PROMPTS = frozenset({"tulu", "sha256:0"})


def test_each_mismatch_is_one_sentence_with_the_figures_of_its_group() -> None:
    assert warnings_of(TULU, TULU, PROMPTS) == []
    lineage, prompts = warnings_of(TULU, LLAMA, PROMPTS, name="the reward model llama")
    assert lineage.startswith("the reward model llama grew from llama-3.1-8b-instruct, the policy from tulu-3-8b.")
    assert "71.4 on RewardBench 2, 55.6 after best-of-16 and 55.6 after PPO" in lineage
    assert "60.6 on RewardBench 2, 51.9 after best-of-16 and 60.1 after PPO; the policy had 54.1 before" in lineage
    assert prompts.startswith("the reward model llama was trained on skywork, and PPO's prompts are none of these but tulu.")
    assert "66.2 on RewardBench 2, 49.6 after best-of-16 and 57.8 after PPO" in prompts


def test_what_is_unknown_is_not_warned_of() -> None:
    assert warnings_of(TULU, Origin(base="rm"), PROMPTS) == []
    summary = lineage_summary(TULU, {"reward": Origin(base="/models/rm")}, PROMPTS)
    assert summary["rewards"]["reward"] == {
        "base": "rm",
        "told_by": "nothing",
        "sources": [],
        "same_lineage": "unknown",
        "in_distribution": "unknown",
    }
    assert (summary["same_lineage"], summary["warnings"]) == ("unknown", [])


def test_of_several_rewards_each_is_compared_and_the_worst_answer_stands_for_all() -> None:
    summary = lineage_summary(TULU, {"fits": TULU, "foreign": LLAMA, "new": Origin(base="x")}, PROMPTS)
    assert {name: entry["same_lineage"] for name, entry in summary["rewards"].items()} == {"fits": "yes", "foreign": "no", "new": "unknown"}
    assert (summary["same_lineage"], summary["in_distribution"]) == ("no", "no")
    assert [warning.partition(" grew")[0].partition(" was")[0] for warning in summary["warnings"]] == ["the reward model foreign"] * 2
    assert (summary["policy"], summary["prompts"]) == ({"base": "tulu-3-8b", "told_by": "model.lineage"}, ["tulu"])
    assert json.loads(json.dumps(summary)) == summary
    assert lineage_summary(TULU, {"fits": TULU, "new": Origin(base="x")}, PROMPTS)["same_lineage"] == "unknown"
    assert lineage_summary(TULU, {"fits": TULU}, PROMPTS)["same_lineage"] == "yes"
    assert lineage_summary(TULU, {}, PROMPTS)["same_lineage"] == "unknown"  # verifiers alone
