"""`rewardloop ppo`: a policy against a reward model."""

from collections.abc import Mapping
from typing import Any

from core.progress import Progress, console_progress
from launch.entry import Composed, start


def run(composed: Composed, progress: Progress) -> dict[str, Any]:
    """Trains the policy of a configuration, unless it is finished already, and returns its record."""
    from core.config import ModelConfig
    from core.sources import resolve
    from launch.schema import PPOJob
    from ppo.prompts import read_prompts

    job = composed.job
    assert isinstance(job, PPOJob)
    # What is likely to be wrong is looked at before torch is imported.
    if job.tasks and job.best_metric.startswith("downstream/") and job.best_metric.partition("/")[2] not in {*job.tasks, "average"}:
        raise ValueError(f"best_metric={job.best_metric} is no task's; choose downstream/average or one of {', '.join(job.tasks)}.")
    prompts = read_prompts(job.prompts)
    resolve(job.model)

    from core.models import load_reward_model, load_tokenizer
    from core.reward import RewardModelScorer
    from core.runs import finish_run
    from launch.parts import identity_of, lineage_of, opened, policy_hook, record_of, run_id_of, tracked
    from launch.rewards import reward_path
    from ppo.train import train

    source = ModelConfig(path=str(reward_path(job.reward.path, job.runs_dir)), revision=job.reward.revision, dtype=job.model.dtype)
    files = {f"prompts.{i}": path for i, path in enumerate(job.prompts)} | {f"tasks.{n}": task.path for n, task in job.tasks.items()}
    identity = identity_of(job, models={"model": job.model, "reward": source}, files=files)
    lineage = {"base": lineage_of(job.model), "model": job.model.path, "reward": job.reward.path, "reward_base": lineage_of(source)}
    lineage["reward_run"] = run_id_of(source.path)
    name = f"{lineage['base'].rpartition('/')[2]}-by-{lineage['reward_base'].rpartition('/')[2]}"
    run, has_work = opened(composed, "ppo", name, identity, lineage=lineage)
    if not has_work:
        return record_of(run)
    _note_lineage(lineage)
    with tracked(job, run, {**identity, "lineage": lineage}) as tracker:
        model, tokenizer = load_reward_model(source)
        scorer = RewardModelScorer(model, tokenizer, batch_tokens=job.hooks.batch_tokens)
        hook = policy_hook(job.hooks, job.tasks, scorer)
        same_tokens = load_tokenizer(job.model).get_vocab() == tokenizer.get_vocab()
        if job.critic == "reward" and not same_tokens:
            print("note: the reward model has another tokenizer than the policy, so the critic starts from the policy.")
        outcome = train(
            job,
            run.dir,
            prompts=prompts,
            scorer=scorer,
            reward_model=model if same_tokens else None,
            hooks=[hook],
            tracker=tracker,
            progress=progress,
        )
        finish_run(
            run,
            last_step=outcome.last_step,
            best_step=outcome.best_step,
            best={job.best_metric: outcome.best_value},
            num_dropped_prompts=outcome.num_dropped_prompts,
            stopped_because=outcome.stopped_because,
        )
    return record_of(run)


def _note_lineage(lineage: Mapping[str, str]) -> None:
    """Says what a reward model of another lineage than the policy's has meant elsewhere."""
    if lineage["base"] != lineage["reward_base"]:
        print(
            f"note: the reward model comes from {lineage['reward_base']}, the policy from {lineage['base']}; in the RewardBench 2 paper "
            "such reward models gave 54.5 to 56.4 after PPO, those of the policy's lineage 59.1 to 60.7 (table 8)."
        )


def _command(composed: Composed) -> dict[str, Any]:
    record = run(composed, console_progress())
    best = ", ".join(f"{key} {value:.3f}" for key, value in record["best"].items() if value is not None)
    print(f"{record['dir']}: best at step {record['best_step']}: {best}")
    return record


def main() -> None:
    """Entry point."""
    start("ppo", _command)


if __name__ == "__main__":
    main()
