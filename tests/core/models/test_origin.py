"""Where models come from: what files beside them tell, and when a reward model is said not to fit a policy."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import pytest

from core.config import ModelConfig
from core.models.origin import Origin, family, lineage_of, origin_of, prompt_sources, run_id_of
from core.runs.identity import fingerprint
from evalhooks.lineage import (
    FITTING,
    OTHER_LINEAGE,
    OTHER_PROMPTS,
    Answer,
    Group,
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
NONE: Mapping[str, Any] = MappingProxyType({})
CARD = """---
license: llama3.1
datasets:
- allenai/llama-3.1-tulu-3-8b-preference-mixture
- Skywork/Skywork-Reward-Preference-80K-v0.2
base_model:
- meta-llama/Llama-3.1-8B-Instruct
---
# A model card
"""


def folder(path: Path, *, classifier: bool = False, **files: str) -> Path:
    """The folder of a model with a configuration and these further files, `_` in their names for a dot."""
    path.mkdir(parents=True)
    kind = "LlamaForSequenceClassification" if classifier else "LlamaForCausalLM"
    (path / "config.json").write_text(json.dumps({"architectures": [kind]}))
    for name, text in files.items():
        (path / name.replace("_json", ".json").replace("_md", ".md")).write_text(text)
    return path


def origin(path: Path | str, lineage: str = "") -> Origin:
    return origin_of(ModelConfig(path=str(path), lineage=lineage))


def run_folder(path: Path, base: str, *, inputs: Mapping[str, str] = NONE, sources: Mapping[str, int] = NONE) -> Path:
    """The checkpoint of a run with this record."""
    checkpoint = folder(path / "checkpoints" / "step-000010", classifier=True)
    record = {"id": "1c27a5e0", "identity": {"inputs": dict(inputs)}, "lineage": {"base": base}, "data": {"sources": dict(sources)}}
    (path / "record.json").write_text(json.dumps(record))
    return checkpoint


@pytest.mark.parametrize("group", list(TABLE_8), ids=str)
def test_the_figures_are_the_means_of_table_8(group: Group) -> None:
    benchmark, ppo, best_of_n = (fmean(column) for column in zip(*TABLE_8[group], strict=True))
    assert (group.rewardbench2, group.ppo, group.best_of_n) == pytest.approx((benchmark, ppo, best_of_n), abs=0.051)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("allenai/Llama-3.1-Tulu-3-8B-SFT", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-8B-DPO@refs/pr/1", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-8B", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-8B-RL-RM-RB2", "tulu-3-8b"),
        ("allenai/Llama-3.1-Tulu-3-70B-SFT-RM-RB2", "tulu-3-70b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("allenai/Llama-3.1-8B-Instruct-RM-RB2", "llama-3.1-8b-instruct"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen-2.5-7b-instruct"),
        (" Coast ", "coast"),
    ],
)
def test_a_family_is_told_by_its_name_whatever_owner_case_revision_or_stage(name: str, expected: str) -> None:
    assert family(name) == expected


@pytest.mark.parametrize("reward", ["tulu-3-8b", "allenai/Llama-3.1-Tulu-3-8B-RL", "Llama-3.1-Tulu-3-8B-DPO@main"])
def test_all_stages_of_tulu_are_one_lineage(reward: str) -> None:
    assert same_lineage(origin("allenai/Llama-3.1-Tulu-3-8B-SFT"), origin("org/rm", reward)) == Answer.yes


def test_llama_instruct_is_another_lineage_than_tulu_although_both_grew_from_one_model() -> None:
    policy, reward = origin("allenai/Llama-3.1-Tulu-3-8B-SFT"), origin("org/rm", "meta-llama/Llama-3.1-8B-Instruct")
    assert policy.ancestors == reward.ancestors == ("llama-3.1-8b",)
    assert same_lineage(policy, reward) == Answer.no


def test_what_is_configured_goes_before_what_lies_beside_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", lineage_json=json.dumps({"lineage": "Coast"}))
    assert origin(path) == Origin(base="coast", evidence="lineage.json")
    assert origin(path, "ridge") == Origin(base="ridge", evidence="model.lineage")
    assert (lineage_of(ModelConfig(path=str(path))), lineage_of(ModelConfig(path=str(path), lineage="ridge"))) == ("Coast", "ridge")


def test_a_run_s_record_tells_base_and_data(tmp_path: Path) -> None:
    pairs = tmp_path / "Atlas.jsonl"
    pairs.write_text("{}\n")
    inputs = {"model": "b" * 64, "data.0.atlas": fingerprint(pairs), "data.1.sky": "Skywork/Sky-Pairs", "pools": "c" * 64}
    checkpoint = run_folder(tmp_path / "rm-a", "coast", inputs=inputs, sources={"atlas": 3, "sky": 4})
    found = origin(checkpoint)
    assert (found.base, found.evidence) == ("coast", "the record of rm-a")
    assert found.sources == {"atlas", "sky", "sky-pairs", f"sha256:{fingerprint(pairs)}"}
    assert origin(tmp_path / "rm-a").base == "coast"
    assert (lineage_of(ModelConfig(path=str(checkpoint))), run_id_of(str(checkpoint))) == ("coast", "1c27a5e0")
    assert (lineage_of(ModelConfig(path="org/name")), run_id_of("org/name")) == ("org/name", "org/name")


def test_a_record_s_base_is_followed_to_what_lies_there(tmp_path: Path) -> None:
    policy = folder(tmp_path / "policy", lineage_json=json.dumps({"lineage": "coast"}))
    assert origin(run_folder(tmp_path / "rm-a", str(policy))).base == "coast"
    # And a folder of which nothing is known is still the same folder.
    unknown = folder(tmp_path / "unknown")
    reward = origin(run_folder(tmp_path / "rm-b", str(unknown)))
    assert (reward.base, reward.evidence) == (unknown.as_posix(), "")
    assert same_lineage(origin(unknown), reward) == Answer.yes
    assert same_lineage(origin(policy), reward) == Answer.unknown


def test_a_model_card_tells_a_reward_model_s_base_and_data(tmp_path: Path) -> None:
    found = origin(folder(tmp_path / "rm", classifier=True, README_md=CARD))
    assert found.families == ("llama-3.1-8b-instruct", "llama-3.1-8b")
    assert found.evidence == "its model card"
    assert found.sources == {"llama-3.1-tulu-3-8b-preference-mixture", "skywork-reward-preference-80k-v0.2"}
    one = "---\nbase_model: org/Some-SFT\ndatasets: org/Fruit-Pairs\n---\n"
    single = origin(folder(tmp_path / "single", classifier=True, README_md=one))
    assert (single.base, single.sources) == ("some", {"fruit-pairs"})


@pytest.mark.parametrize("card", ["no metadata", "---\n- a list\n---\n", "---\nbase_model: [torn\n---\n", "---\nlicense: mit\n---\n"])
def test_a_card_that_tells_nothing_leaves_the_model_unknown(card: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "rm", classifier=True, README_md=card)
    assert origin(path) == Origin(base=path.as_posix())


def test_links_of_cards_are_followed_over_folders_and_end_where_they_turn(tmp_path: Path) -> None:
    first = folder(tmp_path / "first", README_md="---\nbase_model: meta-llama/Llama-3.1-8B-Instruct\n---\n")
    second = folder(tmp_path / "second", README_md=f"---\nbase_model: {first}\n---\n")
    assert origin(second).families == (second.as_posix(), first.as_posix(), "llama-3.1-8b-instruct", "llama-3.1-8b")
    (first / "README.md").write_text(f"---\nbase_model: {second}\n---\n")
    assert origin(second).families == (second.as_posix(), first.as_posix())


def test_an_adapter_is_of_the_lineage_of_its_base(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", lineage_json=json.dumps({"lineage": "coast"}))
    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    adapter = folder(tmp_path / "lora", adapter_config_json=config, README_md=CARD)
    assert (origin(adapter).base, origin(adapter).evidence) == ("coast", "adapter_config.json")


def test_a_saved_name_counts_only_where_it_can_be_a_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "rm", classifier=True)
    config = {"architectures": ["LlamaForSequenceClassification"]}
    for name, base in (("org/Base-SFT", "base"), ("/weka/someone/output", path.as_posix()), (str(path), path.as_posix())):
        (path / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
        assert origin(path).base == base


def test_a_policy_of_ones_own_descends_from_the_reward_model_s_base(tmp_path: Path) -> None:
    policy = origin(folder(tmp_path / "sft", README_md="---\nbase_model: org/start\n---\n"))
    assert same_lineage(policy, Origin(base="start", evidence="model.lineage")) == Answer.yes
    assert same_lineage(policy, Origin(base="zephyr", evidence="model.lineage")) == Answer.no


def test_a_folder_beside_a_common_ancestor_may_hold_anything(tmp_path: Path) -> None:
    # Perhaps a copy of Tulu, whose own card names Llama 3.1 8B.
    policy = origin(folder(tmp_path / "copy", README_md="---\nbase_model: meta-llama/Llama-3.1-8B\n---\n"))
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
    assert reward.sources == {"tulu", f"sha256:{fingerprint(tulu)}"}
    assert in_distribution(reward, prompt_sources([str(copy)])) == Answer.yes  # another name, the same content
    assert in_distribution(reward, frozenset({"tulu", "sha256:0"})) == Answer.yes  # its prompts alone, say
    assert in_distribution(reward, prompt_sources([str(other)])) == Answer.unknown  # "train" is no name
    assert in_distribution(reward, frozenset({"skywork"})) == Answer.no
    assert in_distribution(reward, frozenset({"skywork", "tulu"})) == Answer.yes  # one source in common is enough
    assert in_distribution(Origin(base="coast"), frozenset({"skywork"})) == Answer.unknown
    assert in_distribution(reward, frozenset()) == Answer.unknown
    with pytest.raises(FileNotFoundError):
        prompt_sources([str(tmp_path / "missing.jsonl")])


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
