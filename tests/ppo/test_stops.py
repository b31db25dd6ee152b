"""What ends a run of PPO before its last batch."""

from pathlib import Path

import pytest

from core.config import OptimConfig
from core.hooks.hook import Hook
from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import KLConfig
from ppo.guards import DivergenceError
from ppo.run import PPOResult
from tests.fakes import ListTracker, RecordingHook
from tests.ppo.fakes import BrokenScorer, RisingScorer, ValuesByStep, WeightHook
from tests.ppo.runs import config_of, run


def test_a_run_whose_kl_passes_the_stop_ends_with_its_last_checkpoint_named(policy_folder: Path, tmp_path: Path) -> None:
    tracker = ListTracker()
    config = config_of(policy_folder, optim=OptimConfig(lr=3e-2), kl=KLConfig(stop=0.05))
    with pytest.raises(DivergenceError) as caught:
        run(config, tmp_path, hooks=[WeightHook()], tracker=tracker)
    last = max(tracker.on("train/step"))
    assert f"PPO ended in batch {last + 1}: the KL to the reference is" in str(caught.value)
    assert f"The last complete checkpoint is {step_folder(tmp_path, last)}" in str(caught.value)
    assert complete_steps(tmp_path) == list(range(1, last + 1))


def test_a_reward_that_breaks_ends_the_run_before_it_reaches_the_policy(policy_folder: Path, tmp_path: Path) -> None:
    # Asked for step 0 and two batches, then broken: the third batch is not trained on.
    with pytest.raises(DivergenceError, match=r"PPO ended in batch 3: 8 of 8 scores of reward are not finite .*step-000002"):
        run(config_of(policy_folder), tmp_path, scorer=BrokenScorer(3))
    assert complete_steps(tmp_path) == [1, 2]


def test_a_run_that_falls_downstream_while_its_reward_rises_ends_as_finished_and_says_why(policy_folder: Path, tmp_path: Path) -> None:
    config, said, recording = config_of(policy_folder, stop_after_falls=2), list[str](), RecordingHook()
    hooks: list[Hook] = [ValuesByStep({0: 0.3, 1: 0.5, 2: 0.4, 3: 0.2}), recording]
    outcome = run(config, tmp_path, hooks=hooks, scorer=RisingScorer(), said=said)
    reason = "downstream/average fell at 2 checkpoints in a row, from 50.0 to 20.0, while rm_score rose from 2 to 4 (stop_after_falls=2)"
    assert outcome == PPOResult(last_step=3, best_step=1, best_value=0.5, num_dropped_prompts=0, stopped_because=reason)
    said = [line for line in said if not line.startswith("warning: ")]
    assert said == [f"stopped after batch 3 of 4: {reason}"]
    assert complete_steps(tmp_path) == [1, 2, 3]
    assert [ended.step for ended in recording.ended] == [3]
    # Started again, it is still over.
    assert run(config, tmp_path, hooks=hooks, scorer=RisingScorer()) == outcome
    assert complete_steps(tmp_path) == [1, 2, 3]
