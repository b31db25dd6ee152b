"""Training of a reward model as a job: its hooks, its run, and what the record says of its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bon.pools import load_pools
from core.engines.resume import forget_states
from core.hooks.hook import Hook
from core.hooks.run_context import RunContext
from core.process.world import join_world
from core.progress import Progress
from core.records import Tracker
from core.runs.record import Run
from evalhooks.checkpoints import HeldOutHook, RewardModelHook
from evalhooks.config import Where
from launch.compose import Composed
from launch.inputs import RMInputs
from launch.jobs.lifecycle import Record, RunPlan, carry_out
from launch.schema import RMJob
from rmtrain.train import train


def run(composed: Composed[RMJob], plan: RunPlan, inputs: RMInputs, progress: Progress) -> Record:
    """Trains the reward model and returns the record of its run. Where several processes were started together, all of them call it."""
    job = composed.job
    hooks = _hooks(job, inputs)  # first: pools that cannot be read leave no run behind
    world = join_world()

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        context = RunContext(dir=run.dir, world=world, hooks=hooks, tracker=tracker, progress=progress)
        separate = job.hooks.device if job.hooks.where == Where.separate else None
        outcome = train(job, context, preferences=inputs.preferences.training, separate=separate)
        return {
            "final": dict(outcome.metrics),
            "step": outcome.step,
            "best_step": outcome.best_step,
            "best_metric": outcome.best_metric,
            "best": dict(outcome.best),
            "num_pairs": outcome.num_pairs,
            "num_dropped_pairs": outcome.num_dropped,
            "num_cut_pairs": outcome.num_cut,
            "train_s": outcome.train_s,
            "hooks_s": outcome.hooks_s,
        }

    return carry_out(composed, plan, work, world=world, tidy=forget_states)


def _hooks(job: RMJob, inputs: RMInputs) -> list[Hook]:
    """Raises `ValueError` for pools that cannot be read."""
    hooks: list[Hook] = [
        RewardModelHook(
            rewardbench2=inputs.benchmarks.rewardbench2,
            rewardbench1=inputs.benchmarks.rewardbench1,
            pools=load_pools(Path(job.hooks.pools)) if job.hooks.pools else None,
            best_of=job.hooks.best_of,
            batch_tokens=job.hooks.batch_tokens,
            max_length=job.hooks.max_length,
        )
    ]
    if inputs.preferences.held_out:
        hooks.append(HeldOutHook(inputs.preferences.held_out, max_length=job.max_length, batch_tokens=job.hooks.batch_tokens))
    return hooks
