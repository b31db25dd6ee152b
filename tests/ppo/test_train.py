"""PPO on a tiny policy: it learns, logs what tells a healthy run from a sick one, and keeps its promises on disk."""

import io
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.config import ModelConfig, OptimConfig
from core.engines.resume import resumable_steps
from core.hooks.hook import Hook, read_evaluation
from core.models.load import load_policy
from core.progress import LineProgress
from core.records import AXIS, user
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import CriticStart
from ppo.run import PPOResult
from tests.fakes import ListTracker, RecordingHook
from tests.ppo.fakes import ValuesByStep
from tests.ppo.runs import PROMPTS, config_of, run


def test_training_for_length_makes_the_answers_longer(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    optim = OptimConfig(lr=2e-2)
    sizes = {"batch_size": 32, "minibatch_size": 16, "micro_batch_size": 16, "num_batches": 12, "max_new_tokens": 12}
    config = config_of(policy_folder, **sizes, optim=optim, critic=CriticStart.policy, num_checkpoints=1)
    run(config, tmp_path, tracker=tracker)
    logged = tracker.on("train/step")
    assert list(logged) == list(range(1, 13))
    scores = [logged[step]["train/rm_score"] for step in logged]
    spread = logged[1]["train/rm_score_std"]
    assert sum(scores[-3:]) / 3 > scores[0] + spread, scores
    assert tracker.on(AXIS)[12]["kl"] > 0.01
    assert tracker.on(AXIS)[0]["kl"] == 0
    assert all(row["train/first_ratio_error"] < 1e-5 for row in logged.values())
    # 4 updates a batch, 48 in all: update k is taken at 2e-2 (1 - (k - 1) / 48), and a batch logs that of its last one.
    assert [row["train/lr"] for row in logged.values()] == pytest.approx([2e-2 * (1 - (4 * batch - 1) / 48) for batch in logged])


def test_a_run_with_very_many_prompts_tells_that_it_counts_them(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.chat.AT_ONCE", 4)
    log = io.StringIO()
    run(config_of(policy_folder, num_batches=1, num_checkpoints=1), tmp_path, progress=LineProgress(log))
    assert log.getvalue().startswith("counting the tokens of prompts: 10/10 in ")


def test_a_run_leaves_loadable_checkpoints_evaluations_and_a_link_to_the_best(
    policy_folder: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recording, tracker = RecordingHook(), ListTracker()
    hooks: list[Hook] = [recording, ValuesByStep({0: 0.1, 1: 0.3, 2: 0.5, 3: 0.5, 4: 0.2})]
    outcome = run(config_of(policy_folder), tmp_path, hooks=hooks, tracker=tracker)

    assert outcome == PPOResult(last_step=4, best_step=2, best_value=0.5, num_dropped_prompts=0)  # at a draw the earlier stays
    assert (tmp_path / "best").resolve() == step_folder(tmp_path, 2).resolve()
    assert complete_steps(tmp_path) == [1, 2, 3, 4]
    assert [event.step for event in recording.events] == [0, 1, 2, 3, 4]
    assert [(event.path, event.num_steps) for event in recording.events[::4]] == [(policy_folder, 4), (step_folder(tmp_path, 4), 4)]
    assert [(ended.run_dir, ended.step) for ended in recording.ended] == [(tmp_path, 4)]
    for step, value in enumerate((0.1, 0.3, 0.5, 0.5, 0.2)):
        evaluation = read_evaluation(tmp_path, step)
        assert evaluation["downstream/average"] == value
        assert evaluation == {AXIS: step, **tracker.on(AXIS)[step]}
        assert {"kl", "kl_k3", "rm_score", "length", "eos_rate"} <= set(evaluation)
        # The trainer's own metrics are those of the batch that the step drew.
        assert step == 0 or evaluation["kl"] == tracker.on("train/step")[step]["train/kl"]
    assert read_evaluation(tmp_path, 0)["kl"] == 0

    saved, saved_tokenizer = load_policy(ModelConfig(path=str(step_folder(tmp_path, 4))))
    assert saved_tokenizer.get_vocab() == tokenizer.get_vocab()
    moved = [not torch.equal(a, b) for a, b in zip(saved.parameters(), policy.parameters(), strict=True)]
    assert all(moved)
    # The last one's state goes once the run is recorded as finished.
    assert resumable_steps(tmp_path) == [4]


def test_where_the_untrained_policy_is_best_there_is_no_link(policy_folder: Path, tmp_path: Path) -> None:
    hooks: list[Hook] = [ValuesByStep({0: 0.9, 2: 0.3})]
    outcome = run(config_of(policy_folder, num_batches=2, num_checkpoints=1), tmp_path, hooks=hooks)
    assert (outcome.best_step, outcome.best_value) == (0, 0.9)
    assert not (tmp_path / "best").is_symlink()


def test_without_the_metric_that_decides_nothing_is_best(policy_folder: Path, tmp_path: Path) -> None:
    outcome = run(config_of(policy_folder, num_batches=1, num_checkpoints=1), tmp_path)
    assert (outcome.best_step, outcome.best_value) == (0, None)
    assert not (tmp_path / "best").is_symlink()


def test_everything_that_tells_a_healthy_run_from_a_sick_one_is_logged(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    run(config_of(policy_folder, num_batches=1, num_checkpoints=1), tmp_path, tracker=tracker)
    names = """kl kl_k3 kl_coef entropy clip_fraction dual_clip_fraction value_clip_fraction explained_variance length eos_rate rm_score
        rm_score_std score score_std advantage advantage_std return loss/policy loss/value loss/kl importance_weight importance_gap
        approx_kl grad_norm first_ratio_error lr critic_lr seconds/generation seconds/scoring seconds/forward seconds/update"""
    assert set(tracker.on("train/step")[1]) == {f"train/{name}" for name in names.split()}


def test_the_engine_in_this_process_draws_with_the_trainers_log_probabilities(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    run(config_of(policy_folder, importance_cap=2.0), tmp_path, tracker=tracker)
    rows = tracker.on("train/step").values()
    assert all(row["train/importance_gap"] < 1e-5 for row in rows)
    assert all(row["train/importance_weight"] == 1 for row in rows)  # rounding is not corrected


def test_prompts_beyond_the_limit_are_dropped_counted_and_told(policy_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    prompts = [*PROMPTS, user("fruit " * 100)]
    outcome = run(config_of(policy_folder, num_batches=1, max_prompt_length=60), tmp_path, prompts=prompts, said=said)
    assert outcome.num_dropped_prompts == 1
    assert said[0] == f"dropped 1 of {len(prompts)} prompts longer than max_prompt_length=60 tokens"
    with pytest.raises(ValueError, match="No prompt fits into max_prompt_length=2 tokens"):
        run(config_of(policy_folder, num_batches=1, max_prompt_length=2), tmp_path / "other")
