"""`rewardloop ppo`: a policy against a reward, by PPO, RLOO or GRPO."""

from collections.abc import Mapping
from typing import Any

from core.config import ModelConfig, engine_for
from core.models.origin import lineage_of, origin_of, prompt_sources, run_id_of, run_name_of
from core.process.signals import stopping_at_once
from core.progress import Progress, console_progress
from evalhooks.lineage import lineage_summary
from launch.entry import Composed, num_processes, print_on_main, start
from launch.identity import identity_of
from launch.inputs import ppo_inputs
from launch.jobs.lifecycle import Record, RunPlan
from launch.obstacles import task_obstacle
from launch.rewards.locate import LocatedReward, with_chosen
from launch.schema import PPOJob, reward_key
from launch.terminal.closing import ppo_lines
from ppo.config import Algo
from ppo.critic_free.arguments import require_supported


def run(composed: Composed[PPOJob], progress: Progress) -> Record:
    """Trains the policy of a configuration, unless it is finished already, and returns the record of its run.

    Where several processes were started together, all of them call it.
    """
    rewards = {reward_key(name): reward for name, reward in composed.job.terms.items()}
    composed = with_chosen(PPOJob, composed, rewards, composed.job.runs_dir, print_on_main)
    job = composed.job
    engine_for(job.engine.kind, num_processes())
    if missing := task_obstacle(job):
        raise ValueError(missing)
    if job.algo != Algo.ppo:
        require_supported(job)
    inputs = ppo_inputs(job)
    plan = plan_of(job, inputs.rewards)

    with stopping_at_once():
        from launch.jobs import ppo  # imports torch, which takes seconds: after the checks

    return ppo.run(composed, plan, inputs, progress)


def plan_of(job: PPOJob, rewards: Mapping[str, LocatedReward]) -> RunPlan:
    """The run of a job on these rewards. Raises as `identity_of` for inputs that are not there."""
    lineage = _lineage(job, rewards)
    return RunPlan(kind="ppo", name=_name(job, lineage, rewards), identity=identity_of(job), facts={"lineage": lineage})


def _lineage(job: PPOJob, rewards: Mapping[str, LocatedReward]) -> dict[str, Any]:
    """Where policy, prompts and rewards come from, and what does not fit."""
    models = {name: model for name, reward in rewards.items() if (model := _first_model(reward)) is not None}
    first, reward = next(iter(rewards.items()))
    found: dict[str, Any] = {
        "base": lineage_of(job.model),
        "model": job.model.path,
        "reward": reward.name,
        "reward_base": lineage_of(models[first]) if first in models else reward.name,
        "reward_run": run_id_of(models[first].path) if first in models else reward.name,
    }
    origins = {name: origin_of(model) for name, model in models.items()}
    return found | lineage_summary(origin_of(job.model), origins, prompt_sources(job.prompts))


def _first_model(reward: LocatedReward) -> ModelConfig | None:
    """The model whose origin stands for that of the reward: the members of an ensemble are of a kind. None for programs and judges."""
    return reward.models.get("path", reward.models.get("members[0]"))


def _name(job: PPOJob, lineage: Mapping[str, Any], rewards: Mapping[str, LocatedReward]) -> str:
    """What the run is called: the policy, and the reward that it is trained by, which is the name of its run where it has one."""
    algo = "" if job.algo == Algo.ppo else f"{job.algo}-"
    policy = lineage["base"].removeprefix("pip:").rpartition("/")[2]
    model = _first_model(next(iter(rewards.values())))
    base = lineage["reward_base"].removeprefix("pip:").rpartition("/")[2].replace(":", "-")
    reward = (run_name_of(model.path) if model is not None else "") or base
    lora = f"-lora{job.lora.rank}" if job.lora.rank else ""
    return f"{algo}{policy}-by-{reward}{lora}"


def _command(composed: Composed[PPOJob]) -> Record:
    with console_progress() as progress:
        record = run(composed, progress)
    print_on_main("\n".join(ppo_lines(record, best_metric=composed.job.best_metric)))
    return record


def main() -> None:
    """Entry point."""
    start(PPOJob, _command)


if __name__ == "__main__":
    main()
