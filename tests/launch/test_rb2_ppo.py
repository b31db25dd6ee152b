"""The PPO experiment of the RewardBench 2 paper is its 17 reward models, five of them at two KL coefficients."""

from pathlib import Path

import pytest

import conf
from core.config import EngineKind
from launch.compose import command
from launch.entry import composed
from launch.schema import PPOJob

REWARDS = Path(next(iter(conf.__path__))) / "experiment" / "rb2_ppo_reward"
ON_POLICY = tuple(f"rm{row:02}" for row in range(1, 13))
OFF_POLICY = tuple(f"rm{row:02}" for row in range(13, 18))


def test_the_sweep_is_the_papers_22_runs() -> None:
    jobs = command(PPOJob, ["experiment=rb2_ppo"], multirun=True).jobs
    assert [(job.name, job.kl.beta) for job in jobs] == [
        *((name, 0.05) for name in (*ON_POLICY, *OFF_POLICY)),
        *((f"{name}-low-kl", 0.0325) for name in OFF_POLICY),
    ]
    paths = {job.name: job.reward.path for job in jobs}
    assert len(set(paths.values())) == 17
    assert {paths[f"{name}-low-kl"] == paths[name] for name in OFF_POLICY} == {True}
    # Released sets by their own names, all others by the revision of the repository that Open Instruct saves its runs to.
    released = {"rm01": "allenai/Llama-3.1-Tulu-3-8B-RL-RM-RB2", "rm13": "allenai/Llama-3.1-8B-Instruct-RM-RB2"}
    assert {name: path for name, path in paths.items() if "@" not in path} == released | {"rm13-low-kl": released["rm13"]}
    assert {path.partition("@")[0] for path in paths.values() if "@" in path} == {"allenai/open_instruct_dev"}
    for job in jobs:
        assert (job.model.path, job.optim.lr, job.optim.schedule, job.critic_lr) == (
            "allenai/Llama-3.1-Tulu-3-8B-SFT",
            3e-7,
            "linear",
            None,
        )
        assert job.prompts == ["allenai/llama-3.1-tulu-3-8b-preference-mixture"]
        assert (job.engine.kind, job.critic, job.whiten_advantages) == (EngineKind.fsdp2, "reward", True)
        assert (job.gamma, job.lam, job.clip, job.value_clip, job.value_coef, job.epochs) == (1.0, 0.95, 0.2, 0.2, 0.1, 4)
        assert job.batch_size == job.minibatch_size
        assert (job.shaping.center, job.shaping.scale, job.shaping.std, job.shaping.clip) == ("none", "fixed", 1.0, None)
        assert (job.shaping.missing_eos.how, job.shaping.missing_eos.value) == ("replace", -10.0)
        assert len(job.tasks) == 9


@pytest.mark.parametrize("choice", sorted(file.stem for file in REWARDS.glob("*.yaml")))
def test_every_reward_model_can_be_picked_alone(choice: str) -> None:
    found = composed(PPOJob, ["experiment=rb2_ppo", f"experiment/rb2_ppo_reward={choice}"])
    assert found.job.name == choice.replace("_", "-")
    assert found.job.kl.beta == (0.0325 if choice.endswith("low_kl") else 0.05)
    assert "${world}" not in found.yaml


def test_a_coefficient_of_the_command_line_counts_more_than_the_reward_models() -> None:
    assert composed(PPOJob, ["experiment=rb2_ppo", "experiment/rb2_ppo_reward=rm13", "kl.beta=0.1"]).job.kl.beta == 0.1
