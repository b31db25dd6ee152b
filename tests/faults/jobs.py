"""The commands that are killed and damaged: each job in about a second, with a few checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.stage import Stage

TASK = (
    *("tasks=gsm8k", "tasks.gsm8k.path=${world}/tasks/facts.jsonl", "tasks.gsm8k.prompt_key=prompt"),
    "tasks.gsm8k.verifier=tests.faults.doubles:even",
)
RM = ("data=atlas", "max_length=96", "batch_size=8", "num_checkpoints=2", "log_every=1", "hooks.best_of=[2]")
PPO = (
    *TASK,
    *("num_batches=3", "num_checkpoints=3", "batch_size=8", "minibatch_size=8", "micro_batch_size=8", "max_new_tokens=4"),
    *("best_metric=downstream/gsm8k", "hooks.downstream.n=2", "hooks.downstream.max_new_tokens=4"),
)
GROUPS = ("group_size=4", "micro_batch_size=4")
BON = (*TASK, "pool.n=4", "pool.max_new_tokens=4", "best_of=[1,2]")

STUDY = """# @package _global_
study: tiny
common: ["tracker=files", "world={world}"]
pools: [{task}, "pool.n=4", "pool.max_new_tokens=4", "best_of=[1,2]", "pools=runs/pools"]
reward_models:
  - model=coast data=atlas,harbor max_length=96 batch_size=8 num_checkpoints=1 hooks.best_of=[2] hooks.pools=runs/pools
  - model=coast data=atlas max_length=96 batch_size=8 data.flip=1.0 num_checkpoints=1 hooks.best_of=[2] hooks.pools=runs/pools
ppo:
  best:
    reward: {{lineage: same}}
    overrides: [{ppo}]
"""


def world_of(stage: Stage) -> list[str]:
    """The overrides that every command of a case has: its files go to the current folder."""
    return [f"world={stage.world}", "runs_dir=runs", "study=tiny", "tracker=files"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A command under test, as arguments of `rewardloop`; `prepare` puts what it needs into its folder.

    `separate` says that it starts hooks in a process of their own, which is forked here instead of started.

    >>> Job(name="rm", arguments=lambda stage: ["rm"]).separate
    False
    """

    name: str
    arguments: Callable[[Stage], list[str]]
    prepare: Callable[[Stage, Path], None] = lambda stage, folder: None
    separate: bool = False


def _study_files(stage: Stage, folder: Path) -> None:
    file = folder / "mine" / "experiment" / "tiny.yaml"
    file.parent.mkdir(parents=True)
    quoted = {
        name: ", ".join(f'"{text}"' for text in texts).replace("${world}", str(stage.world))
        for name, texts in (("task", TASK), ("ppo", PPO))
    }
    file.write_text(STUDY.format(world=stage.world, **quoted))


def study_arguments(folder: str = "mine") -> list[str]:
    """The study in `folder` below the current one."""
    return ["study", f"hydra.searchpath=[file://{folder}]", "experiment=tiny", "parallel=2"]


JOBS = {
    job.name: job
    for job in (
        Job(name="rm", arguments=lambda stage: ["rm", *world_of(stage), *RM]),
        Job(name="rm saving often", arguments=lambda stage: ["rm", *world_of(stage), *RM, "epochs=2", "save_minutes=1e-9"]),
        Job(name="rm separate hooks", arguments=lambda stage: ["rm", *world_of(stage), *RM, "hooks.where=separate"], separate=True),
        Job(name="rm held out", arguments=lambda stage: ["rm", *world_of(stage), *RM, "data.held_out=0.2", "lora.rank=2"]),
        Job(name="ppo", arguments=lambda stage: ["ppo", *world_of(stage), *PPO, f"reward.path={stage.reward_model}"]),
        Job(
            name="ppo saving often",
            arguments=lambda stage: [
                "ppo",
                *world_of(stage),
                *PPO,
                f"reward.path={stage.reward_model}",
                "num_checkpoints=1",
                "save_minutes=1e-9",
            ],
        ),
        Job(
            name="rloo", arguments=lambda stage: ["ppo", *world_of(stage), *PPO, *GROUPS, f"reward.path={stage.reward_model}", "algo=rloo"]
        ),
        Job(
            name="grpo", arguments=lambda stage: ["ppo", *world_of(stage), *PPO, *GROUPS, f"reward.path={stage.reward_model}", "algo=grpo"]
        ),
        Job(name="bon", arguments=lambda stage: ["bon", *world_of(stage), *BON, "pools=runs/pools", f"rewards=[{stage.reward_model}]"]),
        Job(
            name="bench",
            arguments=lambda stage: [
                "bench",
                "runs_dir=runs",
                "study=tiny",
                f"rows={stage.rows2}",
                f"reward.path={stage.reward_model}",
                "out=runs/result.json",
            ],
        ),
        Job(name="sweep", arguments=lambda stage: ["rm", "-m", *world_of(stage), *RM, "optim.lr=1e-3,1e-4"]),
        Job(name="study", arguments=lambda stage: study_arguments(), prepare=_study_files),
    )
}
