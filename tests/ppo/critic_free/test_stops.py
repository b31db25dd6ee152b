"""What ends a run of RLOO or GRPO before its last batch."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from core.config import OptimConfig
from core.hooks.hook import Hook
from core.records import Dialogue
from core.runs.checkpoints import complete_steps
from ppo.config import Algo, KLConfig
from ppo.guards import DivergenceError
from ppo.run import PPOResult
from tests.fakes import LengthScorer, RecordingHook
from tests.ppo.critic_free.runs import AS_SCORED, config_of, run
from tests.ppo.fakes import BrokenScorer, RisingScorer, ValuesByStep


def test_a_run_whose_kl_passes_the_stop_ends_with_its_last_checkpoint_named(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, Algo.grpo, optim=OptimConfig(lr=3e-2), kl=KLConfig(stop=0.05))
    with pytest.raises(DivergenceError, match=r"in batch 2: the KL to the reference is .*The last complete checkpoint is .*step-000001"):
        run(config, tmp_path)
    assert complete_steps(tmp_path) == [1]


def test_a_reward_that_breaks_ends_the_run_before_it_reaches_the_policy(policy_folder: Path, tmp_path: Path) -> None:
    # Asked for step 0 and two batches, then broken: the third batch is not trained on.
    with pytest.raises(DivergenceError, match=r"in batch 3: 8 of 8 scores of reward are not finite .*step-000002"):
        run(config_of(policy_folder, Algo.rloo), tmp_path, scorer=BrokenScorer(3))
    assert complete_steps(tmp_path) == [1, 2]
    with pytest.raises(
        DivergenceError, match=r"RLOO ended in batch 0: 8 of 8 scores of reward are not finite .*No checkpoint was written yet"
    ):
        run(config_of(policy_folder, Algo.rloo), tmp_path / "broken", scorer=BrokenScorer(0))


class UnevenScorer(LengthScorer):
    """Gives every second completion a score that overflows once it is squared."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[3e38 * (place % 2) for place, _ in enumerate(row)] for row in super().score(prompts, completions)]


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_step(policy_folder: Path, tmp_path: Path) -> None:
    config = config_of(policy_folder, Algo.rloo, shaping=AS_SCORED, whiten_advantages=False)
    with pytest.raises(DivergenceError, match="in batch 1: a gradient is not finite"):
        run(config, tmp_path, scorer=UnevenScorer())


def test_a_run_that_falls_downstream_while_its_reward_rises_ends_as_finished_and_says_why(policy_folder: Path, tmp_path: Path) -> None:
    config, said, recording = config_of(policy_folder, Algo.rloo, stop_after_falls=2), list[str](), RecordingHook()
    hooks: list[Hook] = [ValuesByStep({0: 0.3, 1: 0.5, 2: 0.4, 3: 0.2}), recording]
    outcome = run(config, tmp_path, hooks=hooks, scorer=RisingScorer(), said=said)
    reason = "downstream/average fell at 2 checkpoints in a row, from 50.0 to 20.0, while rm_score rose from 2 to 4 (stop_after_falls=2)"
    assert outcome == PPOResult(last_step=3, best_step=1, best_value=0.5, num_dropped_prompts=0, stopped_because=reason)
    said = [line for line in said if not line.startswith("warning: ")]
    assert said == [f"stopped after batch 3 of 4: {reason}"]
    assert [ended.step for ended in recording.ended] == [3]
    assert run(config, tmp_path, hooks=hooks, scorer=RisingScorer()) == outcome  # started again, it is still over
