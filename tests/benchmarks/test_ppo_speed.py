"""The contenders of the PPO benchmark are given the same work, and the row says what they did."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.ppo.ours import config_of
from benchmarks.ppo.peer import arguments_of, lengths
from benchmarks.ppo.plan import Clock, Finding, Plan
from benchmarks.ppo.speed import OURS, PEER, contend
from benchmarks.ppo.speed import row as row_of
from benchmarks.ppo.subjects import Subject, best_reward_model
from core.config import Dtype
from core.data.chat import encode_prompts
from core.records import user


@pytest.fixture
def plan(policy_folder: Path, reward_model_folder: Path, tokenizer: PreTrainedTokenizerFast) -> Plan:
    """One batch of four prompts, drawn greedily."""
    texts = ["Name a fruit.", "What is 2 plus 3?", "A plum", "Answer."]
    return Plan(
        policy=str(policy_folder),
        reward=str(reward_model_folder),
        prompts=[[{"role": "user", "content": text}] for text in texts],
        prompt_ids=encode_prompts(tokenizer, [user(text) for text in texts]),
        dtype="fp32",
        batch_size=4,
        minibatch_size=2,
        epochs=2,
        max_new_tokens=16,
        lr=1e-3,
        temperature=1e-4,
        peer={"rollout_batch": 4, "weights": ""},
    )


def finding(*seconds: float, lengths: tuple[float, ...]) -> Finding:
    parts = {part: [second / 4 for second in seconds] for part in ("rollout", "scoring")} | {"update": [s / 2 for s in seconds]}
    curves = {"score": [0.0] * len(lengths), "length": list(lengths)}
    return Finding(seconds=list(seconds), parts=parts, curves=curves, peak_mib=100.0, versions={})


def test_the_clock_begins_at_the_end_of_the_first_batch_and_gives_the_rest_of_a_batch_to_its_update() -> None:
    times = iter([10.0, 13.0, 18.0])
    clock = Clock(lambda: next(times))
    for rollout, scoring in ((9.0, 9.0), (1.0, 0.5), (2.0, 0.5)):
        clock.batch(rollout=rollout, scoring=scoring, score=rollout)
    found = clock.finding({}, length=[4.0, 5.0, 6.0])
    assert found.seconds == [3.0, 5.0]
    # 3 - 1 - 0.5 and 5 - 2 - 0.5
    assert found.parts == {"rollout": [1.0, 2.0], "scoring": [0.5, 0.5], "update": [1.5, 2.5]}
    assert found.curves == {"score": [9.0, 1.0, 2.0], "length": [4.0, 5.0, 6.0]}


def test_both_sides_are_told_the_same(plan: Plan) -> None:
    ours, peer = config_of(plan), arguments_of(plan, "folder", dict[str, Any])
    assert ours.num_batches * ours.batch_size == peer["total_episodes"] == 4
    assert ours.epochs == peer["num_ppo_epochs"]
    # TRL: minibatches of per_device_train_batch_size * gradient_accumulation_steps / num_mini_batches.
    assert ours.minibatch_size == peer["per_device_train_batch_size"] / peer["num_mini_batches"] == 2
    assert peer["gradient_accumulation_steps"] == 1
    pairs = {
        ours.kl.beta: "kl_coef",
        ours.kl.estimator: "kl_estimator",
        ours.clip: "cliprange",
        ours.value_clip: "cliprange_value",
        ours.value_coef: "vf_coef",
        ours.gamma: "gamma",
        ours.lam: "lam",
        ours.temperature: "temperature",
        ours.max_new_tokens: "response_length",
        ours.optim.lr: "learning_rate",
        ours.optim.adam_eps: "adam_epsilon",
        str(ours.optim.schedule): "lr_scheduler_type",
    }
    assert {key: value for value, key in pairs.items()} == {key: peer[key] for key in pairs.values()}
    assert (ours.shaping.missing_eos.how, ours.shaping.missing_eos.value) == ("subtract", peer["missing_eos_penalty"])
    assert not peer["whiten_rewards"]
    assert not peer["gradient_checkpointing"]
    assert not ours.optim.weight_decay  # nor has transformers a default for it


def test_lengths_count_the_first_eos_and_nothing_after_it() -> None:
    rows = torch.tensor([[5, 2, 0, 0], [5, 6, 7, 8], [5, 2, 2, 9]])
    assert lengths(rows, 2) == ([2, 4, 2], [True, False, True])


def test_the_peers_fastest_way_counts() -> None:
    subject = Subject(
        name="tiny",
        policy=Path("policy"),
        reward=Path("reward"),
        prompts=[],
        dtype=Dtype.fp32,
        batch_size=8,
        minibatch_size=8,
        epochs=1,
        max_new_tokens=1,
        lr=1e-3,
        num_batches=2,
        rollout_batches=(8,),
    )
    findings = {
        "ours": [finding(1.0, 3.0, lengths=(9, 4, 6)), finding(4.0, 4.0, lengths=(9, 5, 5))],
        "slow": [finding(8.0, 12.0, lengths=(9, 5, 5))] * 2,
        "fast": [finding(4.0, 4.0, lengths=(9, 5, 5)), finding(8.0, 4.0, lengths=(9, 5, 5))],
    }
    row = row_of(subject, findings)
    assert (row["name"], row["subject"], row["how"]) == ("episodes", "tiny", "fast")
    # 16 episodes in 4 and 8 seconds beside 8 and 12 seconds: 4 / 2 and 2 / (4/3).
    assert row["ratios"] == pytest.approx([2.0, 1.5])
    assert row["ratio"] == pytest.approx(1.75)
    assert row["ways"] == pytest.approx({"slow": 0.8, "fast": (2 + 4 / 3) / 2})
    # 4 and 2 episodes per second of 5 tokens each: the first batch, of 9 tokens, is not timed.
    assert row["ours"]["tokens_per_second"] == pytest.approx(15.0)
    # A batch took 2 and 4 seconds on average, of which a quarter is rollout.
    assert row["ours"]["seconds"] == 3.0
    assert row["ours"]["parts"] == {"rollout": 0.75, "scoring": 0.75, "update": 1.5}


def test_the_best_reward_model_is_the_highest_finished_one_of_the_policys_lineage(tmp_path: Path) -> None:
    for name, base, status, score in (("a", "coast", "finished", 0.5), ("b", "ridge", "finished", 0.9), ("c", "coast", "failed", 0.8)):
        checkpoint = tmp_path / f"rm-{name}" / "checkpoints" / "step-000005"
        checkpoint.mkdir(parents=True)
        (checkpoint / "COMPLETE").touch()
        record = {"status": status, "lineage": {"base": base}, "final": {"rewardbench2/overall": score}}
        (tmp_path / f"rm-{name}" / "record.json").write_text(json.dumps(record))
    assert best_reward_model(tmp_path).parts[-3:] == ("rm-a", "checkpoints", "step-000005")
    with pytest.raises(SystemExit, match="no finished reward model"):
        best_reward_model(tmp_path / "none")


def test_ours_trains_by_the_plan(plan: Plan, tmp_path: Path) -> None:
    two = replace(plan, prompts=plan.prompts * 2, prompt_ids=plan.prompt_ids * 2)
    found = contend(OURS, two, tmp_path / "none", tmp_path)
    assert len(found.seconds) == 1  # the first of two batches warms up
    assert sum(found.parts[part][0] for part in found.parts) == pytest.approx(found.seconds[0])
    assert {name: len(curve) for name, curve in found.curves.items()} == dict.fromkeys(("score", "kl", "length", "eos_rate"), 2)
    assert found.peak_mib > 0


def test_greedy_answers_of_the_same_weights_are_the_same_on_both_sides(plan: Plan, tmp_path: Path) -> None:
    if not PEER.is_file():
        pytest.skip("the peer has no environment here; `make bench-ppo` makes it")
    ours, peer = (contend(name, plan, PEER, tmp_path) for name in (OURS, "TRL"))
    assert ours.curves["length"] == peer.curves["length"]
    assert ours.curves["eos_rate"] == peer.curves["eos_rate"]
    # A drawn token is certain at this temperature. Scores are left out: what a random policy writes is no text, and does not
    # come back as the same tokens.
    assert ours.curves["kl"] == pytest.approx([0.0], abs=1e-3)
    assert peer.curves["kl"] == pytest.approx([0.0], abs=1e-3)
